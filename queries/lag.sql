-- Operators and metrics: how far each part of the pipeline is behind. Every count ends at `most`.

-- name: ListShardLag :many
-- What each shard has still to publish. The age is of the event, which was committed then.
SELECT s.shard::integer AS shard, c.pending::bigint AS pending, c.refused::bigint AS refused, c.oldest::timestamptz AS "oldest?"
FROM (SELECT generate_series(0, t.shards - 1)::smallint AS shard FROM topology t) AS s
CROSS JOIN LATERAL (
    SELECT count(*) AS pending, count(*) FILTER (WHERE q.attempts > 0) AS refused,
           min(uuid_extract_timestamp(q.event_id)) AS oldest
    FROM (SELECT o.event_id, o.attempts FROM outbox o WHERE o.shard = s.shard LIMIT @most::integer) AS q
) AS c
ORDER BY s.shard;

-- name: ListPartitionLag :many
-- Where the router of each partition stands, and whether one is at work.
SELECT p.partition::integer AS partition, p.stream_identity, p.last_sequence, p.feed_position, p.gaps,
       EXISTS (
           SELECT 1 FROM leases l
           WHERE l.kind = 'router' AND l.shard = p.partition AND l.holder IS NOT NULL AND l.expires_at > clock_timestamp()
       )::boolean AS routed
FROM router_positions p
WHERE p.partition < (SELECT t.shards FROM topology t)
ORDER BY p.partition;

-- name: ListConsumerLag :many
-- What waits and what is dead for each consumer; `*` are the events that no release here knows yet.
SELECT c.consumer::text AS consumer, w.waiting::bigint AS waiting, w.oldest::timestamptz AS "oldest?", d.dead::bigint AS dead
FROM unnest(@consumers::text[]) WITH ORDINALITY AS c (consumer, place)
CROSS JOIN LATERAL (
    SELECT count(*) AS waiting, min(q.parked_at) AS oldest
    FROM (SELECT r.parked_at FROM router_waiting r WHERE r.consumer = c.consumer LIMIT @most::integer) AS q
) AS w
CROSS JOIN LATERAL (
    SELECT count(*) AS dead
    FROM (SELECT 1 FROM router_dead_letters r WHERE r.consumer = c.consumer LIMIT @most::integer) AS q
) AS d
ORDER BY c.place;
