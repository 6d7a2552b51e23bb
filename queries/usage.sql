-- Usage path, step 1: take records in, once each.

-- name: ListMetersByKeys :many
SELECT m.id, m.key, m.aggregation, m.value_property, m.unique_property, m.archived_at, EXISTS (
    SELECT FROM subscription_items i
    WHERE i.tenant_id = m.tenant_id AND i.meter_id = m.id AND i.subscription_required
)::boolean AS demands_name
FROM meters m WHERE m.tenant_id = @tenant_id AND m.key = ANY (@keys::text[]);

-- name: ListNamingItems :many
-- When these customers' usage of these meters must name its subscription, in microseconds since 1970.
SELECT i.customer_id, i.meter_id::uuid AS meter_id,
       (extract(epoch FROM coalesce(i.started_at, s.start_at)) * 1000000)::bigint AS begin_us,
       coalesce((extract(epoch FROM least(i.ended_at, s.canceled_at)) * 1000000)::bigint, 9223372036854775807)::bigint
           AS end_us
FROM subscription_items i
JOIN subscriptions s ON s.tenant_id = i.tenant_id AND s.id = i.subscription_id
WHERE i.tenant_id = @tenant_id AND i.meter_id = ANY (@meter_ids::uuid[])
  AND i.customer_id = ANY (@customer_ids::uuid[]) AND i.subscription_required;

-- name: ListCustomersByExternalIds :many
SELECT id, external_id::text AS external_id
FROM customers WHERE tenant_id = @tenant_id AND external_id = ANY (@external_ids::text[]);

-- name: ListCustomersByIds :many
SELECT id FROM customers WHERE tenant_id = @tenant_id AND id = ANY (@ids::uuid[]);

-- name: ListSubscriptionsByIds :many
SELECT id, customer_id FROM subscriptions WHERE tenant_id = @tenant_id AND id = ANY (@ids::uuid[]);

-- name: InsertUsageRecords :execrows
-- The records of a batch whose keys are new; sorted, so that batches with the same keys wait for each other and never
-- deadlock. Instants come as microseconds since 1970 and quantities as text: numbers and texts encode fastest.
INSERT INTO usage_records (
    tenant_id, idempotency_key, batch_id, meter_id, customer_id, subscription_id, used_at, quantity, properties,
    accepted_at)
SELECT @tenant_id::uuid, g.idempotency_key, @batch_id::uuid, g.meter_id, g.customer_id, g.subscription_id,
       timestamptz 'epoch' + g.used_at_us * interval '1 microsecond', g.quantity::numeric, g.properties::jsonb,
       @accepted_at::timestamptz
FROM unnest(
    @idempotency_keys::text[], @meter_ids::uuid[], @customer_ids::uuid[], sqlc.narg(subscription_ids)::uuid[],
    @used_at_us::bigint[], @quantities::text[], sqlc.narg(properties)::text[]
) AS g (idempotency_key, meter_id, customer_id, subscription_id, used_at_us, quantity, properties)
ORDER BY g.idempotency_key
ON CONFLICT (tenant_id, idempotency_key) DO NOTHING;

-- name: CompareUsageRecords :many
-- What stands under each record's key: in which batch it came, and whether it says the same. The place is the record's
-- number in the arrays.
SELECT g.place::bigint AS place, r.batch_id,
       (r.revision = 0 AND r.meter_id = g.meter_id AND r.customer_id = g.customer_id
        AND r.subscription_id IS NOT DISTINCT FROM g.subscription_id
        AND r.used_at = timestamptz 'epoch' + g.used_at_us * interval '1 microsecond'
        AND r.quantity = g.quantity::numeric AND r.properties IS NOT DISTINCT FROM g.properties::jsonb)::boolean AS same
FROM unnest(
    @idempotency_keys::text[], @meter_ids::uuid[], @customer_ids::uuid[], sqlc.narg(subscription_ids)::uuid[],
    @used_at_us::bigint[], @quantities::text[], sqlc.narg(properties)::text[]
) WITH ORDINALITY
    AS g (idempotency_key, meter_id, customer_id, subscription_id, used_at_us, quantity, properties, place)
JOIN usage_records r ON r.tenant_id = @tenant_id AND r.idempotency_key = g.idempotency_key;

-- name: RequireSubscription :execrows
-- From now on the usage of the subscription's meters must name it. For callers that hold the customer.
UPDATE subscription_items SET subscription_required = true
WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id AND meter_id IS NOT NULL;
