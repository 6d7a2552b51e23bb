-- Webhook path, beside it: recoveries, and the stretches of the log that they go through.

-- name: SummarizeStretch :many
-- What a stretch of at most `most` events of the tenant holds for an endpoint, by the state of its latest delivery.
SELECT coalesce(d.status, 'missed')::text AS state, s.subject, count(*)::bigint AS events
FROM (
    SELECT e.id, e.subject FROM billing_events e
    WHERE e.tenant_id = @tenant_id AND e.id > @after_event AND e.id <= @last_event
    ORDER BY e.id
    LIMIT @most::integer
) s
LEFT JOIN LATERAL (
    SELECT x.status FROM webhook_deliveries x
    WHERE x.tenant_id = @tenant_id AND x.webhook_id = @webhook_id AND x.event_id = s.id
    ORDER BY x.nonce DESC
    LIMIT 1
) d ON true
GROUP BY 1, 2
ORDER BY 1, 2;

-- name: ListStretch :many
-- The next events of the tenant by id, and the latest delivery of each to the endpoint.
SELECT s.id, s.subject, d.nonce AS "nonce?", d.status AS "status?"
FROM (
    SELECT e.id, e.subject FROM billing_events e
    WHERE e.tenant_id = @tenant_id AND e.id > @after_event AND e.id <= @last_event
    ORDER BY e.id
    LIMIT @most::integer
) s
LEFT JOIN LATERAL (
    SELECT x.nonce, x.status FROM webhook_deliveries x
    WHERE x.tenant_id = @tenant_id AND x.webhook_id = @webhook_id AND x.event_id = s.id
    ORDER BY x.nonce DESC
    LIMIT 1
) d ON true
ORDER BY s.id;

-- name: InsertRecovery :one
-- No row when another one of the endpoint is running.
INSERT INTO webhook_recoveries (
    tenant_id, id, webhook_id, actor, note, after_event, last_event, states, subjects, rate_per_second, matched,
    done_until, armed_at, created_at)
VALUES (
    @tenant_id, @id, @webhook_id, @actor, @note, @after_event, @last_event, @states, @subjects, @rate_per_second,
    @matched, @after_event, @now::timestamptz, @now::timestamptz)
ON CONFLICT DO NOTHING
RETURNING *;

-- name: GetRecovery :one
SELECT * FROM webhook_recoveries WHERE tenant_id = @tenant_id AND id = @id;

-- name: ListRecoveries :many
-- Newest first, those before @before.
SELECT * FROM webhook_recoveries r
WHERE r.tenant_id = @tenant_id AND (sqlc.narg(webhook_id)::uuid IS NULL OR r.webhook_id = sqlc.narg(webhook_id)::uuid)
  AND (sqlc.narg(before)::uuid IS NULL OR r.id < sqlc.narg(before)::uuid)
ORDER BY r.id DESC
LIMIT @most::integer;

-- name: ListRunningRecoveries :many
-- Of all tenants, those after one of them.
SELECT tenant_id, id FROM webhook_recoveries WHERE status = 'running' AND id > @after ORDER BY id LIMIT @most::integer;

-- name: LockRunningRecovery :one
-- No row when it is done, or when another worker is at it.
SELECT * FROM webhook_recoveries
WHERE tenant_id = @tenant_id AND id = @id AND status = 'running' FOR NO KEY UPDATE SKIP LOCKED;

-- name: AdvanceRecovery :exec
UPDATE webhook_recoveries
SET made = made + @made::bigint, done_until = @done_until, armed_at = @armed_at, status = @status::text,
    finished_at = CASE WHEN @status::text = 'running' THEN NULL ELSE @now::timestamptz END
WHERE tenant_id = @tenant_id AND id = @id AND status = 'running';

-- name: CancelRecovery :one
-- No row when it does not run any more.
UPDATE webhook_recoveries SET status = 'canceled', finished_at = @now::timestamptz
WHERE tenant_id = @tenant_id AND id = @id AND status = 'running'
RETURNING *;

-- name: InsertRecovered :one
-- Deliveries under their next nonces, counted as matched in the same statement; how many are new.
WITH made AS (
    INSERT INTO webhook_deliveries (
        tenant_id, webhook_id, event_id, nonce, shard, subject, status, due_at, created_at)
    SELECT @tenant_id, @webhook_id, g.event_id, g.nonce, @shard, g.subject, @status, @now::timestamptz,
           @now::timestamptz
    FROM unnest(@event_ids::uuid[], @nonces::smallint[], @subjects::text[]) AS g (event_id, nonce, subject)
    ORDER BY g.event_id, g.nonce
    ON CONFLICT DO NOTHING
    RETURNING 1
), counted AS (
    INSERT INTO webhook_matched (tenant_id, webhook_id, partition, count)
    SELECT @tenant_id, @webhook_id, @partition, count(*) FROM made
    ON CONFLICT (tenant_id, webhook_id, partition) DO UPDATE SET count = webhook_matched.count + excluded.count
)
SELECT count(*)::bigint FROM made;
