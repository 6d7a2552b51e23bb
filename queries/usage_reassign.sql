-- Usage path: records whose owner may have changed, because coverage was made, moved or ended, get a further revision,
-- which the fold gives its owner. Under the locks of customer and subscription.

-- name: ListRootsFrom :many
-- The roots of the customer's folded records of these meters with a timestamp from @at on, owned by one of these items or
-- by none.
SELECT coalesce(r.root_key, r.idempotency_key)::text AS root_key
FROM usage_records r
WHERE r.tenant_id = @tenant_id AND r.item_id = ANY (@item_ids::uuid[]) AND r.used_at >= @at::timestamptz AND r.folded
UNION
SELECT coalesce(r.root_key, r.idempotency_key)::text AS root_key
FROM usage_records r
WHERE r.tenant_id = @tenant_id AND r.customer_id = @customer_id AND r.meter_id = ANY (@meter_ids::uuid[])
  AND r.used_at >= @at::timestamptz AND r.folded AND r.item_id IS NULL;
