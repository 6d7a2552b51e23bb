-- Operators pause and resume shards, consumers and tenants; the router stills what waits meanwhile, and lets it through.

-- name: LockRouter :many
-- Every transaction of the router begins with its partitions' rows: under all of them, none is under way.
SELECT partition FROM router_positions ORDER BY partition FOR NO KEY UPDATE;

-- name: InsertPause :one
-- No row when it is paused already. One that is being resumed is paused again.
INSERT INTO pauses (shard, consumer, tenant_id, reason, actor, paused_at)
VALUES (sqlc.narg(shard), sqlc.narg(consumer), sqlc.narg(tenant_id), @reason, @actor, @now::timestamptz)
ON CONFLICT (shard, consumer, tenant_id) DO UPDATE
SET reason = excluded.reason, actor = excluded.actor, paused_at = excluded.paused_at, resumed_at = NULL
WHERE pauses.resumed_at IS NOT NULL
RETURNING *;

-- name: ResumePause :one
-- No row when it is not paused.
UPDATE pauses SET resumed_at = @now::timestamptz
WHERE shard IS NOT DISTINCT FROM sqlc.narg(shard) AND consumer IS NOT DISTINCT FROM sqlc.narg(consumer)
  AND tenant_id IS NOT DISTINCT FROM sqlc.narg(tenant_id) AND resumed_at IS NULL
RETURNING *;

-- name: DeleteShardPause :exec
-- Of a shard nothing is parked: what waits is its outbox.
DELETE FROM pauses WHERE shard = @shard::smallint;

-- name: CountPauses :one
SELECT count(*) FROM pauses WHERE resumed_at IS NULL;

-- name: ListPauses :many
SELECT * FROM pauses ORDER BY paused_at, shard, consumer, tenant_id LIMIT @most::integer;

-- name: FindRouterPauses :one
-- Whether something of the router is paused, or being resumed.
SELECT (count(*) FILTER (WHERE resumed_at IS NULL) > 0)::boolean AS paused,
       (count(*) FILTER (WHERE resumed_at IS NOT NULL) > 0)::boolean AS resuming
FROM pauses WHERE shard IS NULL;

-- name: StillPaused :execrows
-- What is due for a consumer or tenant that is paused gets an infinite time, so that the look for what is due is short.
WITH due AS (
    SELECT w.consumer, w.resource, w.resource_version, w.event_id, w.replay_id FROM router_waiting w
    WHERE w.partition = ANY (@partitions::smallint[]) AND w.next_attempt_at <= @now::timestamptz
      AND EXISTS (
          SELECT 1 FROM pauses p WHERE p.resumed_at IS NULL AND (p.consumer = w.consumer OR p.tenant_id = w.tenant_id))
    ORDER BY w.consumer, w.resource, w.resource_version, w.event_id, w.replay_id
    LIMIT @most::integer
    FOR NO KEY UPDATE OF w
)
UPDATE router_waiting SET next_attempt_at = 'infinity'
FROM due
WHERE router_waiting.consumer = due.consumer AND router_waiting.resource = due.resource
  AND router_waiting.resource_version = due.resource_version AND router_waiting.event_id = due.event_id
  AND router_waiting.replay_id = due.replay_id;

-- name: ReleaseResumed :execrows
-- What a pause stilled in these partitions and no other pause does is due, the earliest first, a bounded number at once.
WITH freed AS (
    SELECT w.consumer, w.resource, w.resource_version, w.event_id, w.replay_id
    FROM pauses p
    CROSS JOIN LATERAL (
        (SELECT c.consumer, c.resource, c.resource_version, c.event_id, c.replay_id FROM router_waiting c
         WHERE c.consumer = p.consumer AND c.partition = ANY (@partitions::smallint[])
           AND c.next_attempt_at = 'infinity'
           AND NOT EXISTS (SELECT 1 FROM pauses x WHERE x.resumed_at IS NULL AND x.tenant_id = c.tenant_id)
         ORDER BY c.event_id LIMIT @most::integer)
        UNION
        (SELECT t.consumer, t.resource, t.resource_version, t.event_id, t.replay_id FROM router_waiting t
         WHERE t.tenant_id = p.tenant_id AND t.partition = ANY (@partitions::smallint[])
           AND t.next_attempt_at = 'infinity'
           AND NOT EXISTS (SELECT 1 FROM pauses x WHERE x.resumed_at IS NULL AND x.consumer = t.consumer)
         ORDER BY t.event_id LIMIT @most::integer)
    ) AS w
    WHERE p.resumed_at IS NOT NULL
)
UPDATE router_waiting SET next_attempt_at = @now::timestamptz
FROM (SELECT DISTINCT f.consumer, f.resource, f.resource_version, f.event_id, f.replay_id FROM freed f) AS f
WHERE router_waiting.consumer = f.consumer AND router_waiting.resource = f.resource
  AND router_waiting.resource_version = f.resource_version AND router_waiting.event_id = f.event_id
  AND router_waiting.replay_id = f.replay_id;

-- name: DeleteResumed :execrows
-- Over, when nothing that it stilled is left in any partition.
DELETE FROM pauses
WHERE resumed_at IS NOT NULL
  AND NOT EXISTS (
      SELECT 1 FROM router_waiting w
      WHERE w.consumer = pauses.consumer AND w.next_attempt_at = 'infinity'
        AND NOT EXISTS (SELECT 1 FROM pauses x WHERE x.resumed_at IS NULL AND x.tenant_id = w.tenant_id))
  AND NOT EXISTS (
      SELECT 1 FROM router_waiting w
      WHERE w.tenant_id = pauses.tenant_id AND w.next_attempt_at = 'infinity'
        AND NOT EXISTS (SELECT 1 FROM pauses x WHERE x.resumed_at IS NULL AND x.consumer = w.consumer));
