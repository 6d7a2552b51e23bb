-- Operators: the shard count is changed while nothing is on its way.

-- name: LockTopology :one
SELECT shards FROM topology WHERE singleton FOR NO KEY UPDATE;

-- name: LockOutbox :exec
-- Whoever is about to emit waits for the commit, and then computes the shard with the new count.
LOCK TABLE outbox IN SHARE ROW EXCLUSIVE MODE;

-- name: CountUndrained :one
-- What is still on its way, and who still works on it; every count ends at `most`.
SELECT (SELECT count(*) FROM (SELECT 1 FROM outbox o LIMIT @most::integer) AS q)::bigint AS pending,
       (SELECT count(*) FROM lease_members m
        WHERE m.kind IN ('dispatcher', 'router') AND m.expires_at > clock_timestamp())::bigint AS workers;

-- name: ListKeptBack :many
-- Whose events wait or are dead: they move with their resources.
SELECT k.tenant_id, k.resource FROM (
    SELECT w.tenant_id, w.resource FROM router_waiting w
    UNION
    SELECT d.tenant_id, d.resource FROM router_dead_letters d
    UNION
    SELECT o.tenant_id, o.resource FROM outbox_dead_letters o
) AS k
ORDER BY k.tenant_id, k.resource
LIMIT @most::integer;

-- name: MoveWaiting :execrows
UPDATE router_waiting SET partition = g.partition
FROM unnest(@tenant_ids::uuid[], @resources::text[], @partitions::smallint[]) AS g (tenant_id, resource, partition)
WHERE router_waiting.tenant_id = g.tenant_id AND router_waiting.resource = g.resource;

-- name: MoveRouterDeadLetters :execrows
UPDATE router_dead_letters SET partition = g.partition
FROM unnest(@tenant_ids::uuid[], @resources::text[], @partitions::smallint[]) AS g (tenant_id, resource, partition)
WHERE router_dead_letters.tenant_id = g.tenant_id AND router_dead_letters.resource = g.resource;

-- name: MoveOutboxDeadLetters :execrows
UPDATE outbox_dead_letters SET shard = g.partition
FROM unnest(@tenant_ids::uuid[], @resources::text[], @partitions::smallint[]) AS g (tenant_id, resource, partition)
WHERE outbox_dead_letters.tenant_id = g.tenant_id AND outbox_dead_letters.resource = g.resource;

-- name: SetShards :exec
UPDATE topology SET shards = @shards WHERE singleton;

-- name: DropShardsFrom :exec
-- Leases and pauses of shards that are no more. The positions stay: the feed's cursors stand on them.
WITH unpaused AS (DELETE FROM pauses WHERE pauses.shard >= @shards::integer)
DELETE FROM leases WHERE leases.kind IN ('dispatcher', 'router') AND leases.shard >= @shards::integer;
