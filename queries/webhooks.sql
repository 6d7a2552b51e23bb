-- Webhook path: the endpoints, their secrets, and what the fan-out makes for them.

-- name: InsertWebhook :one
INSERT INTO webhooks (
    tenant_id, id, url, subjects, description, headers, metadata, payload, rate_per_second, schema_version, status,
    shard, created_at)
VALUES (
    @tenant_id, @id, @url, @subjects, @description, @headers, @metadata, @payload, @rate_per_second, @schema_version,
    'enabled', @shard, @now)
RETURNING *;

-- name: InsertWebhookSecret :exec
INSERT INTO webhook_secrets (tenant_id, webhook_id, id, ciphertext, created_at)
VALUES (@tenant_id, @webhook_id, @id, @ciphertext, @now);

-- name: GetWebhook :one
SELECT * FROM webhooks WHERE tenant_id = @tenant_id AND id = @id;

-- name: LockWebhook :one
-- An endpoint that is not deleted, held against the fan-out and other changes.
SELECT * FROM webhooks WHERE tenant_id = @tenant_id AND id = @id AND status <> 'deleted' FOR NO KEY UPDATE;

-- name: ListWebhooks :many
-- Newest first, those made before @before; deleted ones are left out.
SELECT * FROM webhooks
WHERE tenant_id = @tenant_id AND status <> 'deleted'
  AND (sqlc.narg(before)::uuid IS NULL OR id < sqlc.narg(before)::uuid)
ORDER BY id DESC
LIMIT @page_max;

-- name: UpdateWebhook :one
UPDATE webhooks
SET url = @url, subjects = @subjects, description = @description, headers = @headers, metadata = @metadata,
    payload = @payload, rate_per_second = @rate_per_second, schema_version = @schema_version, status = @status, disabled_reason = @disabled_reason, version = webhooks.version + 1
WHERE tenant_id = @tenant_id AND id = @id AND version = @version
RETURNING *;

-- name: MoveDeliveries :execrows
-- The deliveries of an endpoint in these states, in the order in which results lock them.
WITH held AS MATERIALIZED (
    SELECT d.event_id, d.nonce FROM webhook_deliveries d
    WHERE d.tenant_id = @tenant_id AND d.webhook_id = @webhook_id AND d.status = ANY (@sources::text[])
    ORDER BY d.event_id, d.nonce
    FOR NO KEY UPDATE
)
UPDATE webhook_deliveries
SET status = @status::text, due_at = @now::timestamptz,
    finished_at = CASE WHEN @status::text = 'canceled' THEN @now::timestamptz END
FROM held
WHERE webhook_deliveries.tenant_id = @tenant_id AND webhook_deliveries.webhook_id = @webhook_id
  AND webhook_deliveries.event_id = held.event_id AND webhook_deliveries.nonce = held.nonce;

-- name: ExpireWebhookSecrets :exec
-- The secrets that have no end yet get one.
UPDATE webhook_secrets SET expires_at = @expires_at::timestamptz
WHERE tenant_id = @tenant_id AND webhook_id = @webhook_id AND expires_at IS NULL;

-- name: DropWebhookSecrets :exec
-- Those that have ended.
DELETE FROM webhook_secrets
WHERE tenant_id = @tenant_id AND webhook_id = @webhook_id AND expires_at <= @now::timestamptz;

-- name: ListWebhookSecrets :many
-- Newest first, without the secrets, those that have not ended.
SELECT s.id, s.created_at, s.expires_at FROM webhook_secrets s
WHERE s.tenant_id = @tenant_id AND s.webhook_id = @webhook_id
  AND (s.expires_at IS NULL OR s.expires_at > @now::timestamptz)
ORDER BY s.id DESC;

-- name: CountDeliveriesOf :one
-- What matched, and its deliveries by state, in one statement: one snapshot, so that the sides can be compared.
SELECT coalesce((SELECT sum(m.count) FROM webhook_matched m
                 WHERE m.tenant_id = @tenant_id AND m.webhook_id = @webhook_id), 0)::bigint AS matched,
       coalesce(sum(d.count) FILTER (WHERE d.status = 'delivered'), 0)::bigint AS delivered,
       coalesce(sum(d.count) FILTER (WHERE d.status = 'pending'), 0)::bigint AS pending,
       coalesce(sum(d.count) FILTER (WHERE d.status = 'parked'), 0)::bigint AS parked,
       coalesce(sum(d.count) FILTER (WHERE d.status = 'dead'), 0)::bigint AS dead,
       coalesce(sum(d.count) FILTER (WHERE d.status = 'canceled'), 0)::bigint AS canceled
FROM (
    SELECT x.status, count(*) AS count FROM webhook_deliveries x
    WHERE x.tenant_id = @tenant_id AND x.webhook_id = @webhook_id
    GROUP BY x.status
    UNION ALL
    -- What is kept no longer.
    SELECT c.status, c.count FROM webhook_closed c WHERE c.tenant_id = @tenant_id AND c.webhook_id = @webhook_id
) d;

-- name: ListWebhooksOf :many
-- The endpoints of many tenants, disabled ones too: their deliveries are parked. Held until the deliveries are committed:
-- whoever disables, changes or deletes one waits, and then finds them.
SELECT w.tenant_id, w.id, w.subjects, w.status, w.shard FROM webhooks w
WHERE w.tenant_id = ANY (@tenant_ids::uuid[]) AND w.status <> 'deleted'
ORDER BY w.tenant_id, w.id
FOR SHARE;

-- name: FanOut :exec
-- The deliveries, and how many of them are new, counted per endpoint and partition in the same statement. `places` are
-- those of the delivery's endpoint in the first arrays, from 1.
WITH endpoints AS (
    SELECT w.place, w.tenant_id, w.webhook_id, w.shard, w.status
    FROM unnest(@tenant_ids::uuid[], @webhook_ids::uuid[], @shards::smallint[], @statuses::text[])
         WITH ORDINALITY AS w (tenant_id, webhook_id, shard, status, place)
), given AS (
    SELECT e.tenant_id, e.webhook_id, e.shard, e.status, g.event_id, g.subject, g.partition
    FROM unnest(@places::integer[], @event_ids::uuid[], @subjects::text[], @partitions::smallint[])
         AS g (place, event_id, subject, partition)
    JOIN endpoints e ON e.place = g.place
), made AS (
    INSERT INTO webhook_deliveries (tenant_id, webhook_id, event_id, shard, subject, status, due_at, created_at)
    SELECT given.tenant_id, given.webhook_id, given.event_id, given.shard, given.subject, given.status,
           @now::timestamptz, @now::timestamptz
    FROM given ORDER BY given.tenant_id, given.webhook_id, given.event_id
    ON CONFLICT DO NOTHING
    RETURNING webhook_deliveries.webhook_id, webhook_deliveries.event_id
)
INSERT INTO webhook_matched (tenant_id, webhook_id, partition, count)
SELECT given.tenant_id, given.webhook_id, given.partition, count(*)
FROM given JOIN made ON made.webhook_id = given.webhook_id AND made.event_id = given.event_id
GROUP BY given.tenant_id, given.webhook_id, given.partition
ORDER BY given.tenant_id, given.webhook_id, given.partition
ON CONFLICT (tenant_id, webhook_id, partition) DO UPDATE SET count = webhook_matched.count + excluded.count;

-- name: AddFiltered :exec
INSERT INTO webhook_filtered (tenant_id, partition, count)
SELECT g.tenant_id, g.partition, g.count
FROM unnest(@tenant_ids::uuid[], @partitions::smallint[], @counts::bigint[]) AS g (tenant_id, partition, count)
ORDER BY g.tenant_id, g.partition
ON CONFLICT (tenant_id, partition) DO UPDATE SET count = webhook_filtered.count + excluded.count;
