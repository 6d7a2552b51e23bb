-- Replay path, FORCE of the consumer usage: what batches of records touched is computed anew from the records. Periods are
-- held first, in one sorted go; then buckets; and only then records are read, in a later statement.

-- name: HoldPeriodsOfBatches :many
-- Every usage period that owns a record of these batches. Folds leave out what is held here, and their events wait.
SELECT p.tenant_id, p.item_id, p.period_start, p.subscription_id, p.status FROM usage_periods p
JOIN (
    SELECT DISTINCT r.tenant_id, r.item_id, r.period_start
    FROM unnest(@tenant_ids::uuid[], @batch_ids::uuid[]) AS b (tenant_id, batch_id)
    JOIN usage_records r ON r.tenant_id = b.tenant_id AND r.batch_id = b.batch_id
    WHERE r.item_id IS NOT NULL
) AS o ON o.tenant_id = p.tenant_id AND o.item_id = p.item_id AND o.period_start = p.period_start
ORDER BY p.tenant_id, p.item_id, p.period_start
FOR NO KEY UPDATE OF p;

-- name: ListBucketsOfBatches :many
-- The hour buckets that records of these batches are in, with what they say now; zeros where one is missing.
SELECT t.tenant_id::uuid AS tenant_id, t.item_id::uuid AS item_id, t.period_start::timestamptz AS period_start,
       t.hour::timestamptz AS hour, t.group_key::text AS group_key, coalesce(b.records, 0)::bigint AS records,
       coalesce(b.quantity_sum, 0)::numeric AS quantity_sum, coalesce(b.quantity_max, 0)::numeric AS quantity_max
FROM (
    SELECT DISTINCT r.tenant_id, r.item_id, r.period_start, date_trunc('hour', r.used_at, 'UTC') AS hour,
           CASE WHEN m.group_by = '{}' THEN '' ELSE usage_group_key(m.group_by, r.properties) END AS group_key
    FROM unnest(@tenant_ids::uuid[], @batch_ids::uuid[]) AS g (tenant_id, batch_id)
    JOIN usage_records r ON r.tenant_id = g.tenant_id AND r.batch_id = g.batch_id
    JOIN meters m ON m.tenant_id = r.tenant_id AND m.id = r.meter_id
    WHERE r.item_id IS NOT NULL
) AS t
LEFT JOIN usage_buckets b ON b.tenant_id = t.tenant_id AND b.item_id = t.item_id AND b.period_start = t.period_start
                         AND b.hour = t.hour AND b.group_key = t.group_key
ORDER BY t.tenant_id, t.item_id, t.period_start, t.hour, t.group_key;

-- name: MarkDue :execrows
-- Periods to be rated anew, each for the event that brought it here. A billed one has its amount from the records.
INSERT INTO usage_period_marks (tenant_id, item_id, period_start, subscription_id, kind, event_id, correlation_id)
SELECT p.tenant_id, p.item_id, p.period_start, p.subscription_id, 'due', @event_id::uuid, @correlation_id::uuid
FROM usage_periods p
JOIN unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[])
    AS k (tenant_id, item_id, period_start)
    ON p.tenant_id = k.tenant_id AND p.item_id = k.item_id AND p.period_start = k.period_start
WHERE p.status <> 'billed'
ORDER BY p.tenant_id, p.item_id, p.period_start;
