-- Operators: events that were given up, by the dispatcher (consumer '') or by a consumer of the router.

-- name: ListDeadEvents :many
-- The latest first.
SELECT q.* FROM (
    (SELECT d.id, ''::text AS consumer, d.tenant_id, d.event_id, d.subject, d.resource, NULL::bigint AS resource_version,
            d.shard AS partition, d.attempts, d.last_error, d.died_at
     FROM outbox_dead_letters d
     WHERE (sqlc.narg(before)::uuid IS NULL OR d.id < sqlc.narg(before)::uuid)
       AND (sqlc.narg(tenant_id)::uuid IS NULL OR d.tenant_id = sqlc.narg(tenant_id)::uuid)
     ORDER BY d.id DESC LIMIT @most::integer)
    UNION ALL
    (SELECT d.id, d.consumer, d.tenant_id, d.event_id, d.subject, d.resource, d.resource_version,
            d.partition, d.attempts, d.last_error, d.died_at
     FROM router_dead_letters d
     WHERE (sqlc.narg(before)::uuid IS NULL OR d.id < sqlc.narg(before)::uuid)
       AND (sqlc.narg(tenant_id)::uuid IS NULL OR d.tenant_id = sqlc.narg(tenant_id)::uuid)
     ORDER BY d.id DESC LIMIT @most::integer)
) AS q ORDER BY q.id DESC LIMIT @most::integer;

-- name: GetDeadEvent :one
SELECT d.id, ''::text AS consumer, d.tenant_id, d.event_id, d.subject, d.resource, NULL::bigint AS resource_version,
       d.shard AS partition, d.attempts, d.last_error, d.died_at
FROM outbox_dead_letters d
WHERE d.id = @id::uuid AND (sqlc.narg(tenant_id)::uuid IS NULL OR d.tenant_id = sqlc.narg(tenant_id)::uuid)
UNION ALL
SELECT d.id, d.consumer, d.tenant_id, d.event_id, d.subject, d.resource, d.resource_version,
       d.partition, d.attempts, d.last_error, d.died_at
FROM router_dead_letters d
WHERE d.id = @id::uuid AND (sqlc.narg(tenant_id)::uuid IS NULL OR d.tenant_id = sqlc.narg(tenant_id)::uuid);

-- name: LockPartition :one
-- Before anything of a partition is redriven or discarded: the router's transactions begin with this row too.
SELECT partition FROM router_positions WHERE partition = @partition::smallint FOR NO KEY UPDATE;

-- name: RedriveToOutbox :execrows
-- Back at its old position.
WITH gone AS (DELETE FROM outbox_dead_letters WHERE id = @id::uuid RETURNING *)
INSERT INTO outbox (event_id, purpose, tenant_id, shard, priority, position, subject, resource, target, replay_id)
SELECT g.event_id, g.purpose, g.tenant_id, g.shard, g.priority, g.position, g.subject, g.resource, g.target, g.replay_id
FROM gone g;

-- name: RedriveToWaiting :one
WITH gone AS (DELETE FROM router_dead_letters WHERE id = @id::uuid RETURNING *), back AS (
    INSERT INTO router_waiting (
        consumer, resource, resource_version, event_id, replay_id, tenant_id, partition, subject, next_attempt_at,
        last_error, parked_at)
    SELECT g.consumer, g.resource, g.resource_version, g.event_id, g.replay_id, g.tenant_id, g.partition, g.subject,
           @now::timestamptz, g.last_error, @now::timestamptz
    FROM gone g
    ON CONFLICT DO NOTHING
)
SELECT event_id FROM gone;

-- name: DropOutboxDeadLetter :execrows
DELETE FROM outbox_dead_letters WHERE id = @id::uuid;

-- name: DropRouterDeadLetter :one
-- With what waits of the same event for the same consumer.
WITH gone AS (DELETE FROM router_dead_letters WHERE id = @id::uuid RETURNING consumer, event_id), waiting AS (
    DELETE FROM router_waiting w USING gone WHERE w.consumer = gone.consumer AND w.event_id = gone.event_id
)
SELECT event_id FROM gone;

-- name: MarkHandled :exec
-- What is discarded counts as handled: no healing and no replay brings it back.
INSERT INTO inbox (consumer, event_id, tenant_id)
SELECT c.consumer, @event_id::uuid, @tenant_id::uuid FROM unnest(@consumers::text[]) AS c (consumer)
ORDER BY c.consumer
ON CONFLICT DO NOTHING;
