-- Usage path: records whose owner may have changed, because coverage was made, moved or ended, get a further revision,
-- which the fold gives its owner. Under the locks of customer and subscription.

-- name: LockRootsFrom :many
-- The roots of the customer's folded records of these meters with a timestamp from @at on, locked.
WITH touched AS (
    SELECT DISTINCT coalesce(r.root_key, r.idempotency_key) AS root_key
    FROM usage_records r
    WHERE r.tenant_id = @tenant_id AND r.customer_id = @customer_id AND r.meter_id = ANY (@meter_ids::uuid[])
      AND r.used_at >= @at::timestamptz AND r.folded
      AND (r.item_id IS NULL OR r.item_id = ANY (@item_ids::uuid[]))
)
SELECT r.idempotency_key
FROM usage_records r
JOIN touched ON r.tenant_id = @tenant_id AND r.idempotency_key = touched.root_key
ORDER BY r.idempotency_key
FOR NO KEY UPDATE OF r;

-- name: InsertReassigned :many
-- The highest revision of each root once more, not folded. Answers how many per meter.
WITH latest AS (
    SELECT DISTINCT ON (root.idempotency_key) root.idempotency_key AS root, r.tenant_id, r.revision, r.voided, r.meter_id,
           r.customer_id, r.subscription_id, r.used_at, r.quantity, r.properties
    FROM usage_records root
    JOIN usage_records r ON r.tenant_id = root.tenant_id
        AND (r.idempotency_key = root.idempotency_key OR r.root_key = root.idempotency_key)
    WHERE root.tenant_id = @tenant_id AND root.idempotency_key = ANY (@root_keys::text[])
    ORDER BY root.idempotency_key, r.revision DESC
), inserted AS (
    INSERT INTO usage_records (
        tenant_id, idempotency_key, batch_id, root_key, revision, voided, meter_id, customer_id, subscription_id, used_at,
        quantity, properties, accepted_at)
    SELECT l.tenant_id, @key_prefix::text || (l.revision + 1)::text || ':' || l.root, @batch_id::uuid, l.root,
           l.revision + 1, l.voided, l.meter_id, l.customer_id, l.subscription_id, l.used_at, l.quantity, l.properties,
           @accepted_at::timestamptz
    FROM latest AS l
    ORDER BY l.root
    RETURNING usage_records.meter_id, usage_records.customer_id
)
SELECT inserted.customer_id, inserted.meter_id, count(*)::integer AS records
FROM inserted GROUP BY inserted.customer_id, inserted.meter_id;
