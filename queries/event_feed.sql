-- The feed: every routed event once, by partition and position.

-- name: AppendToFeed :exec
-- Draws the positions from the partitions' counters, in the order given. Their rows are locked by the router's
-- transaction already, so a position is visible only together with all earlier ones.
WITH given AS (
    SELECT g.partition, g.tenant_id, g.event_id, row_number() OVER (PARTITION BY g.partition ORDER BY g.place) AS place
    FROM unnest(@partitions::smallint[], @tenant_ids::uuid[], @event_ids::uuid[])
         WITH ORDINALITY AS g (partition, tenant_id, event_id, place)
), drawn AS (
    UPDATE router_positions SET feed_position = router_positions.feed_position + c.events
    FROM (SELECT given.partition, count(*) AS events FROM given GROUP BY given.partition) AS c
    WHERE router_positions.partition = c.partition
    RETURNING router_positions.partition, router_positions.feed_position - c.events AS before, router_positions.feed_week
)
INSERT INTO event_feed (tenant_id, partition, position, event_id, week)
SELECT given.tenant_id, given.partition, drawn.before + given.place, given.event_id, drawn.feed_week
FROM given JOIN drawn ON drawn.partition = given.partition
ORDER BY given.tenant_id, given.partition, given.place;

-- name: ListFeedPositions :many
SELECT partition, feed_position, feed_floor FROM router_positions ORDER BY partition;

-- name: ReadFeed :many
-- The next events of a tenant behind a vector of positions: the first of each partition, then the second of each, so
-- that a cut leaves nothing out. An event that the filters refuse has no envelope.
SELECT f.partition::integer AS partition, f.position::bigint AS position,
       (CASE WHEN (@resource::text = '' OR e.resource = @resource::text)
              AND (e.subject = ANY (@subjects::text[])
                   OR EXISTS (SELECT FROM unnest(@beginnings::text[]) AS b (beginning) WHERE starts_with(e.subject, b.beginning)))
             THEN e.envelope END)::bytea AS "envelope?"
FROM (
    SELECT known.partition, next.position, next.event_id, next.position - known.position AS distance
    FROM unnest(@partitions::smallint[], @positions::bigint[]) AS known (partition, position)
    -- No week before the one in which the position stands has anything behind it.
    CROSS JOIN LATERAL (
        SELECT coalesce(max(w.week), '-infinity')::date AS week FROM event_feed_weeks w
        WHERE w.partition = known.partition AND w.after_position <= known.position
    ) AS since
    CROSS JOIN LATERAL (
        SELECT r.position, r.event_id FROM event_feed r
        WHERE r.tenant_id = @tenant_id AND r.partition = known.partition AND r.week >= since.week
          AND r.position > known.position
        ORDER BY r.position
        LIMIT @most::integer
    ) AS next
) AS f
LEFT JOIN billing_events e ON e.id = f.event_id AND e.tenant_id = @tenant_id
ORDER BY f.distance, f.partition
LIMIT @most::integer;
