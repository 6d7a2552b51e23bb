-- Usage and invoice paths: what usage periods hold, from the records (for money) or from the buckets (for looking).

-- name: ListQuantitiesFromRecords :many
-- One row per usage period that exists: its effective records, exactly. Of a record with revisions the highest folded one
-- counts, wherever it belongs. The quantity is null where the meter's aggregation needs more than count, sum and max.
SELECT k.tenant_id::uuid AS tenant_id, k.item_id::uuid AS item_id, k.period_start::timestamptz AS period_start,
       m.aggregation,
       CASE m.aggregation
           WHEN 'count' THEN e.records::numeric
           WHEN 'sum' THEN e.total
           WHEN 'max' THEN e.highest
       END::numeric AS "quantity?"
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[]) AS k (tenant_id, item_id, period_start)
JOIN usage_periods p
    ON p.tenant_id = k.tenant_id AND p.item_id = k.item_id AND p.period_start = k.period_start
JOIN meters m ON m.tenant_id = p.tenant_id AND m.id = p.meter_id
CROSS JOIN LATERAL (
    SELECT count(*) AS records, coalesce(sum(r.quantity), 0) AS total, coalesce(max(r.quantity), 0) AS highest
    FROM usage_records r
    WHERE r.tenant_id = k.tenant_id AND r.item_id = k.item_id AND r.period_start = k.period_start
      AND r.folded AND NOT r.voided
      AND NOT EXISTS (
          SELECT FROM usage_records later
          WHERE later.tenant_id = r.tenant_id AND later.root_key = coalesce(r.root_key, r.idempotency_key)
            AND later.revision > r.revision AND later.folded
      )
) AS e;

-- name: ListQuantitiesFromBuckets :many
-- The same from the hour buckets, with the number of records; a period without buckets has no row.
SELECT b.tenant_id, b.item_id, b.period_start, sum(b.records)::bigint AS records, sum(b.quantity_sum)::numeric AS total,
       max(b.quantity_max)::numeric AS highest
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[]) AS k (tenant_id, item_id, period_start)
JOIN usage_buckets b
    ON b.tenant_id = k.tenant_id AND b.item_id = k.item_id AND b.period_start = k.period_start
GROUP BY b.tenant_id, b.item_id, b.period_start;

-- name: CountUnreconciledBuckets :one
-- How many hour buckets say another thing than the effective records do, or are missing, or have no record.
WITH recorded AS (
    SELECT r.tenant_id, r.item_id, r.period_start, date_trunc('hour', r.used_at, 'UTC') AS hour, count(*) AS records,
           sum(r.quantity) AS quantity_sum, max(r.quantity) AS quantity_max
    FROM usage_records r
    WHERE r.item_id IS NOT NULL AND r.folded AND NOT r.voided
      AND (sqlc.narg(tenant_id)::uuid IS NULL OR r.tenant_id = sqlc.narg(tenant_id)::uuid)
      AND NOT EXISTS (
          SELECT FROM usage_records later
          WHERE later.tenant_id = r.tenant_id AND later.root_key = coalesce(r.root_key, r.idempotency_key)
            AND later.revision > r.revision AND later.folded
      )
    GROUP BY r.tenant_id, r.item_id, r.period_start, date_trunc('hour', r.used_at, 'UTC')
), bucketed AS (
    -- A bucket that was recomputed to nothing agrees with no record at all.
    SELECT b.tenant_id, b.item_id, b.period_start, b.hour, sum(b.records) AS records,
           sum(b.quantity_sum) AS quantity_sum, max(b.quantity_max) AS quantity_max
    FROM usage_buckets b
    WHERE b.records > 0
      AND (sqlc.narg(tenant_id)::uuid IS NULL OR b.tenant_id = sqlc.narg(tenant_id)::uuid)
    GROUP BY b.tenant_id, b.item_id, b.period_start, b.hour
)
SELECT count(*)
FROM recorded
FULL JOIN bucketed
    ON bucketed.tenant_id = recorded.tenant_id AND bucketed.item_id = recorded.item_id
    AND bucketed.period_start = recorded.period_start AND bucketed.hour = recorded.hour
WHERE (bucketed.records, bucketed.quantity_sum, bucketed.quantity_max)
    IS DISTINCT FROM (recorded.records, recorded.quantity_sum, recorded.quantity_max);
