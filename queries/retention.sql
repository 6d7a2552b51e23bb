-- Sweeper: what may go by the week, and the feed's weeks.

-- name: TurnFeedWeek :execrows
-- A new week begins in all partitions, behind what is in the feed by then.
WITH locked AS (
    SELECT p.partition FROM router_positions p WHERE p.feed_week < @week::date ORDER BY p.partition FOR NO KEY UPDATE
), turned AS (
    UPDATE router_positions SET feed_week = @week::date
    FROM locked WHERE router_positions.partition = locked.partition
    RETURNING router_positions.partition, router_positions.feed_position
)
INSERT INTO event_feed_weeks (partition, week, after_position)
SELECT t.partition, @week::date, t.feed_position FROM turned t ORDER BY t.partition
ON CONFLICT DO NOTHING;

-- name: RaiseFeedFloor :execrows
-- Weeks that were over at `before`: their successor had begun. Whoever reads from within them is told so from now on.
WITH locked AS (
    SELECT p.partition FROM router_positions p ORDER BY p.partition FOR NO KEY UPDATE
), gone AS (
    DELETE FROM event_feed_weeks USING locked
    WHERE event_feed_weeks.partition = locked.partition
      AND EXISTS (
          SELECT 1 FROM event_feed_weeks s
          WHERE s.partition = event_feed_weeks.partition AND s.week > event_feed_weeks.week AND s.week <= @before::date)
    RETURNING event_feed_weeks.partition
)
UPDATE router_positions SET feed_floor = greatest(router_positions.feed_floor, n.after_position)
FROM (
    SELECT s.partition, max(s.after_position) AS after_position FROM event_feed_weeks s
    WHERE s.week <= @before::date GROUP BY s.partition
) AS n
WHERE router_positions.partition = n.partition AND n.partition IN (SELECT g.partition FROM gone g);

-- name: GetOldestFeedWeek :one
SELECT min(w.week)::date AS "week?" FROM event_feed_weeks w;

-- name: ListOldPartitions :many
SELECT o.parent::text AS parent, o.child::text AS child, o.lower_id::uuid AS lower_id, o.upper_id::uuid AS upper_id,
       o.state::text AS state, o.detach_statement::text AS detach_statement,
       o.finalize_statement::text AS finalize_statement, o.attach_statement::text AS attach_statement,
       o.drop_statement::text AS drop_statement
FROM old_partitions(@log_before::timestamptz, @inbox_before::timestamptz, sqlc.narg(feed_before)::date) AS o
LIMIT @most::integer;

-- name: FindNeed :one
-- What still refers to an event of these ids, the first that is found; no row when nothing does. Webhooks need the log
-- alone, and where nothing is routed nothing is healed.
SELECT n.need::text AS need FROM (
    (SELECT 'the outbox' AS need FROM outbox o WHERE o.event_id >= @lower::uuid AND o.event_id < @upper::uuid LIMIT 1)
    UNION ALL
    (SELECT 'a dead letter of the dispatcher' FROM outbox_dead_letters d
     WHERE d.event_id >= @lower::uuid AND d.event_id < @upper::uuid LIMIT 1)
    UNION ALL
    (SELECT 'an event that waits in the router' FROM router_waiting w
     WHERE w.event_id >= @lower::uuid AND w.event_id < @upper::uuid LIMIT 1)
    UNION ALL
    (SELECT 'a dead letter of the router' FROM router_dead_letters d
     WHERE d.event_id >= @lower::uuid AND d.event_id < @upper::uuid LIMIT 1)
    UNION ALL
    (SELECT 'an active replay' FROM replays r
     WHERE r.status IN ('running', 'paused') AND nullif(r.plan ->> 'first', '')::uuid < @upper::uuid
       AND nullif(r.plan ->> 'last', '')::uuid >= @lower::uuid LIMIT 1)
    UNION ALL
    (SELECT 'healing' FROM healing h
     WHERE @heals::boolean AND EXISTS (
         SELECT 1 FROM billing_events e
         WHERE e.id > h.healed_until AND e.id >= @lower::uuid AND e.id < @upper::uuid) LIMIT 1)
    UNION ALL
    (SELECT 'a webhook that is not delivered' FROM webhook_deliveries d
     WHERE @with_webhooks::boolean AND d.status = 'pending' AND d.event_id >= @lower::uuid AND d.event_id < @upper::uuid
     LIMIT 1)
    UNION ALL
    (SELECT 'a webhook that is parked or dead' FROM webhook_deliveries d
     WHERE @with_webhooks::boolean AND d.status IN ('parked', 'dead')
       AND d.event_id >= @lower::uuid AND d.event_id < @upper::uuid LIMIT 1)
    UNION ALL
    (SELECT 'a dead letter of a webhook' FROM webhook_dlq d
     WHERE @with_webhooks::boolean AND d.event_id >= @lower::uuid AND d.event_id < @upper::uuid LIMIT 1)
) AS n LIMIT 1;
