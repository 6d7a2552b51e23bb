-- Webhook path, beside it: what became of deliveries, sending again, and the books.

-- name: ListDeliveries :many
-- The newest events first. Each endpoint offers its own newest by its primary key, so that no index is kept for this.
SELECT d.webhook_id, d.event_id, d.nonce, d.subject, d.status, d.attempts, d.forgiven, d.due_at, d.created_at, d.finished_at
FROM webhooks w
CROSS JOIN LATERAL (
    SELECT x.webhook_id, x.event_id, x.nonce, x.subject, x.status, x.attempts, x.forgiven, x.due_at, x.created_at, x.finished_at
    FROM webhook_deliveries x
    WHERE x.tenant_id = w.tenant_id AND x.webhook_id = w.id AND x.event_id <= @before_event::uuid
      AND (x.event_id, x.webhook_id, x.nonce) < (@before_event::uuid, @before_webhook::uuid, @before_nonce::integer)
      AND (sqlc.narg(event_id)::uuid IS NULL OR x.event_id = sqlc.narg(event_id)::uuid)
      AND (sqlc.narg(status)::text IS NULL OR x.status = sqlc.narg(status)::text)
      AND (sqlc.narg(subject)::text IS NULL OR x.subject = sqlc.narg(subject)::text)
      AND (sqlc.narg(beginning)::text IS NULL OR starts_with(x.subject, sqlc.narg(beginning)::text))
    ORDER BY x.event_id DESC, x.nonce DESC
    LIMIT @most::integer
) d
WHERE w.tenant_id = @tenant_id AND (sqlc.narg(webhook_id)::uuid IS NULL OR w.id = sqlc.narg(webhook_id)::uuid)
ORDER BY d.event_id DESC, d.webhook_id DESC, d.nonce DESC
LIMIT @most::integer;

-- name: GetDelivery :one
SELECT d.webhook_id, d.event_id, d.nonce, d.subject, d.status, d.attempts, d.forgiven, d.due_at, d.created_at, d.finished_at
FROM webhook_deliveries d
WHERE d.tenant_id = @tenant_id AND d.webhook_id = @webhook_id AND d.event_id = @event_id AND d.nonce = @nonce;

-- name: GetLatestDelivery :one
-- The latest resend, or the first delivery.
SELECT d.webhook_id, d.event_id, d.nonce, d.subject, d.status, d.attempts, d.forgiven, d.due_at, d.created_at, d.finished_at
FROM webhook_deliveries d
WHERE d.tenant_id = @tenant_id AND d.webhook_id = @webhook_id AND d.event_id = @event_id
ORDER BY d.nonce DESC
LIMIT 1;

-- name: ListAttempts :many
SELECT a.attempt_number, a.started_at, a.duration_ms, a.outcome, a.response_status, a.response_head, a.error, a.address,
       a.request_headers
FROM webhook_delivery_attempts a
WHERE a.tenant_id = @tenant_id AND a.webhook_id = @webhook_id AND a.event_id = @event_id AND a.nonce = @nonce
ORDER BY a.attempt_number
LIMIT @most::integer;

-- name: ListDeadLetters :many
SELECT q.webhook_id, q.event_id, q.nonce, q.attempts, q.last_error, q.died_at, d.subject
FROM webhook_dlq q
JOIN webhook_deliveries d ON d.tenant_id = q.tenant_id AND d.webhook_id = q.webhook_id AND d.event_id = q.event_id
                         AND d.nonce = q.nonce
WHERE q.tenant_id = @tenant_id AND (sqlc.narg(webhook_id)::uuid IS NULL OR q.webhook_id = sqlc.narg(webhook_id)::uuid)
  AND (q.event_id, q.webhook_id, q.nonce) < (@before_event::uuid, @before_webhook::uuid, @before_nonce::integer)
ORDER BY q.event_id DESC, q.webhook_id DESC, q.nonce DESC
LIMIT @most::integer;

-- name: LockEndpoint :one
-- Held to the end: neither another resend nor a change of its state comes between.
SELECT w.status, w.shard, w.subjects FROM webhooks w WHERE w.tenant_id = @tenant_id AND w.id = @id FOR NO KEY UPDATE;

-- name: HasEvent :one
SELECT EXISTS (SELECT 1 FROM billing_events e WHERE e.tenant_id = @tenant_id AND e.id = @event_id)::boolean;

-- name: InsertResend :one
-- Counted as matched in the same statement, in a partition of its own: no router shares that row.
WITH made AS (
    INSERT INTO webhook_deliveries (
        tenant_id, webhook_id, event_id, nonce, shard, subject, status, due_at, created_at)
    VALUES (@tenant_id, @webhook_id, @event_id, @nonce, @shard, @subject, @status, @now::timestamptz, @now::timestamptz)
    RETURNING webhook_deliveries.webhook_id, webhook_deliveries.event_id, webhook_deliveries.nonce,
              webhook_deliveries.subject, webhook_deliveries.status, webhook_deliveries.attempts,
              webhook_deliveries.forgiven, webhook_deliveries.due_at, webhook_deliveries.created_at,
              webhook_deliveries.finished_at
), counted AS (
    INSERT INTO webhook_matched (tenant_id, webhook_id, partition, count)
    VALUES (@tenant_id, @webhook_id, @partition, 1)
    ON CONFLICT (tenant_id, webhook_id, partition) DO UPDATE SET count = webhook_matched.count + 1
)
SELECT made.webhook_id, made.event_id, made.nonce, made.subject, made.status, made.attempts, made.forgiven,
       made.due_at, made.created_at, made.finished_at
FROM made;

-- name: ListBalances :many
-- One statement and so one snapshot: what was counted when the rows were made, and the rows themselves.
SELECT w.id AS webhook_id,
       coalesce((SELECT sum(m.count) FROM webhook_matched m
                 WHERE m.tenant_id = w.tenant_id AND m.webhook_id = w.id), 0)::bigint AS matched,
       (d.resent + c.resent)::bigint AS resent, (d.delivered + c.delivered)::bigint AS delivered, d.pending, d.parked,
       (d.dead + c.dead)::bigint AS dead, (d.canceled + c.canceled)::bigint AS canceled
FROM webhooks w
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE x.nonce > 0) AS resent,
           count(*) FILTER (WHERE x.status = 'delivered') AS delivered,
           count(*) FILTER (WHERE x.status = 'pending') AS pending,
           count(*) FILTER (WHERE x.status = 'parked') AS parked,
           count(*) FILTER (WHERE x.status = 'dead') AS dead,
           count(*) FILTER (WHERE x.status = 'canceled') AS canceled
    FROM webhook_deliveries x WHERE x.tenant_id = w.tenant_id AND x.webhook_id = w.id
) d
CROSS JOIN LATERAL (
    -- What is kept no longer.
    SELECT coalesce(sum(y.resent), 0)::bigint AS resent,
           coalesce(sum(y.count) FILTER (WHERE y.status = 'delivered'), 0)::bigint AS delivered,
           coalesce(sum(y.count) FILTER (WHERE y.status = 'dead'), 0)::bigint AS dead,
           coalesce(sum(y.count) FILTER (WHERE y.status = 'canceled'), 0)::bigint AS canceled
    FROM webhook_closed y WHERE y.tenant_id = w.tenant_id AND y.webhook_id = w.id
) c
WHERE w.tenant_id = @tenant_id AND (sqlc.narg(webhook_id)::uuid IS NULL OR w.id = sqlc.narg(webhook_id)::uuid)
  AND w.id > @after::uuid
ORDER BY w.id
LIMIT @most::integer;

-- name: SumMatches :one
SELECT coalesce((SELECT sum(m.count) FROM webhook_matched m WHERE m.tenant_id = @tenant_id), 0)::bigint AS matched,
       coalesce((SELECT sum(f.count) FROM webhook_filtered f WHERE f.tenant_id = @tenant_id), 0)::bigint AS filtered;

-- name: CountAhead :one
-- Those of the endpoint that are due before this one, at most `most`, from the index of pending rows.
SELECT count(*) FROM (
    SELECT 1 FROM webhook_deliveries d
    WHERE d.tenant_id = @tenant_id AND d.webhook_id = @webhook_id AND d.status = 'pending'
      AND (d.due_at, d.event_id) < (@due_at::timestamptz, @event_id::uuid)
    LIMIT @most::integer
) AS ahead;

-- name: GetFanOutState :one
-- The event's subject and whether the consumer has handled it.
SELECT e.subject, EXISTS (
    SELECT 1 FROM inbox i WHERE i.consumer = @consumer AND i.event_id = @event_id)::boolean AS fanned_out
FROM billing_events e WHERE e.tenant_id = @tenant_id AND e.id = @event_id;

-- name: GetLastAttemptNumber :one
SELECT coalesce(max(a.attempt_number), 0)::integer FROM webhook_delivery_attempts a
WHERE a.tenant_id = @tenant_id AND a.webhook_id = @webhook_id AND a.event_id = @event_id AND a.nonce = @nonce;
