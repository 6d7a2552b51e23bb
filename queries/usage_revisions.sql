-- Usage path, beside step 1: further revisions of records. A revision is a row of its own that names its root; its number
-- is drawn under the root's lock, and UNIQUE (tenant, root, revision) says so too.

-- name: LockUsageRoots :many
-- The records of these keys, as they were taken in, locked in the order of their keys. Nothing else counts as a root.
SELECT r.idempotency_key
FROM usage_records r
WHERE r.tenant_id = @tenant_id AND r.idempotency_key = ANY (@idempotency_keys::text[]) AND r.root_key IS NULL
ORDER BY r.idempotency_key
FOR NO KEY UPDATE;

-- name: ListUsageRevisions :many
-- A record and its revisions, oldest first, each with the period that it belongs to.
SELECT r.tenant_id, r.idempotency_key, r.batch_id, r.root_key, r.revision, r.voided, r.meter_id, m.key AS meter_key,
       r.customer_id, r.subscription_id, r.used_at, r.quantity, r.properties, r.accepted_at, r.folded, r.item_id,
       r.period_start, r.note, p.subscription_id AS "owner_subscription_id?", p.period_end AS "period_end?",
       p.status AS "period_status?"
FROM usage_records r
JOIN meters m ON m.tenant_id = r.tenant_id AND m.id = r.meter_id
LEFT JOIN usage_periods p
    ON p.tenant_id = r.tenant_id AND p.item_id = r.item_id AND p.period_start = r.period_start
WHERE r.tenant_id = @tenant_id
  AND ((r.idempotency_key = @root_key::text AND r.root_key IS NULL) OR r.root_key = @root_key::text)
ORDER BY r.revision;

-- name: InsertUsageRevision :exec
INSERT INTO usage_records (
    tenant_id, idempotency_key, batch_id, root_key, revision, voided, meter_id, customer_id, subscription_id, used_at,
    quantity, properties, accepted_at, note)
SELECT @tenant_id::uuid, @idempotency_key::text, @batch_id::uuid, @root_key::text, @revision::integer, @voided::boolean,
       @meter_id::uuid, @customer_id::uuid, sqlc.narg(subscription_id)::uuid, @used_at::timestamptz, @quantity::numeric,
       sqlc.narg(properties)::jsonb, @accepted_at::timestamptz, sqlc.narg(note)::text;

-- name: CopyUsageRevisions :many
-- A further revision of each root like its latest, for callers that hold the roots' locks: to be given an owner anew, or,
-- with @void, to count no more, or with another named subscription. A root whose latest revision is voided gets none.
INSERT INTO usage_records (
    tenant_id, idempotency_key, batch_id, root_key, revision, voided, meter_id, customer_id, subscription_id, used_at,
    quantity, properties, accepted_at, note)
SELECT l.tenant_id, g.idempotency_key, g.batch_id, g.root_key, l.revision + 1, @void::boolean, l.meter_id, l.customer_id,
       coalesce(sqlc.narg(subscription_id)::uuid, l.subscription_id), l.used_at, l.quantity, l.properties,
       @accepted_at::timestamptz, @note::text
FROM unnest(@root_keys::text[], @idempotency_keys::text[], @batch_ids::uuid[]) AS g (root_key, idempotency_key, batch_id)
CROSS JOIN LATERAL (
    SELECT c.*
    FROM (
        SELECT root.* FROM usage_records root
        WHERE root.tenant_id = @tenant_id AND root.idempotency_key = g.root_key
        UNION ALL
        SELECT later.* FROM usage_records later WHERE later.tenant_id = @tenant_id AND later.root_key = g.root_key
    ) AS c
    ORDER BY c.revision DESC
    LIMIT 1
) AS l
WHERE NOT l.voided
ORDER BY g.idempotency_key
RETURNING usage_records.batch_id, usage_records.customer_id, usage_records.meter_id;

-- name: ListUnassignedRoots :many
-- Effective records without an owner that the subscription covers, the oldest first; some of its usage periods may be
-- opened only later, while it catches up, and the fold waits for them.
SELECT DISTINCT r.used_at, coalesce(r.root_key, r.idempotency_key)::text AS root_key
FROM subscriptions s
JOIN subscription_items i ON i.tenant_id = s.tenant_id AND i.subscription_id = s.id
JOIN usage_records r ON r.tenant_id = i.tenant_id AND r.customer_id = i.customer_id AND r.meter_id = i.meter_id
    AND r.used_at >= s.start_at AND (s.canceled_at IS NULL OR r.used_at < s.canceled_at)
    AND (i.started_at IS NULL OR r.used_at >= i.started_at) AND (i.ended_at IS NULL OR r.used_at < i.ended_at)
WHERE s.tenant_id = @tenant_id AND s.id = @subscription_id
  AND r.folded AND r.item_id IS NULL AND NOT r.voided
  AND (r.subscription_id = s.id OR (r.subscription_id IS NULL AND NOT i.subscription_required))
  AND NOT EXISTS (
      SELECT FROM usage_records later
      WHERE later.tenant_id = r.tenant_id AND later.root_key = coalesce(r.root_key, r.idempotency_key)
        AND later.revision > r.revision
  )
ORDER BY r.used_at, root_key
LIMIT @most;

-- name: ListUnassignedOfKeys :many
-- Those of the records of these keys that are a customer's, have no owner, and are not on their way to one.
SELECT coalesce(r.root_key, r.idempotency_key)::text AS root_key
FROM usage_records r
WHERE r.tenant_id = @tenant_id AND r.customer_id = @customer_id
  AND (r.idempotency_key = ANY (@keys::text[]) OR r.root_key = ANY (@keys::text[]))
  AND r.folded AND r.item_id IS NULL AND NOT r.voided
  AND NOT EXISTS (
      SELECT FROM usage_records later
      WHERE later.tenant_id = r.tenant_id AND later.root_key = coalesce(r.root_key, r.idempotency_key)
        AND later.revision > r.revision
  );
