-- Invoice path, for looking: what a line rests on, as it is now.

-- name: GetUsagePeriod :one
SELECT sqlc.embed(p), m.key AS meter_key, m.aggregation, m.group_by
FROM usage_periods p
JOIN meters m ON m.tenant_id = p.tenant_id AND m.id = p.meter_id
WHERE p.tenant_id = @tenant_id AND p.item_id = @item_id AND p.period_start = @period_start;

-- name: CountUsageOfLine :one
-- The records that count for a usage period, of one group value if given.
SELECT count(*) AS records, min(c.used_at)::timestamptz AS "first_used_at?", max(c.used_at)::timestamptz AS "last_used_at?"
FROM counted_usage c
WHERE c.tenant_id = @tenant_id AND c.item_id = @item_id AND c.period_start = @period_start
  AND (sqlc.narg(group_key)::text IS NULL OR c.group_key = sqlc.narg(group_key)::text);

-- name: ListBilledAmounts :many
-- What final invoices that are not void, or are waived, carry for a usage period.
SELECT l.amount FROM invoice_lines l
JOIN invoices i ON i.tenant_id = l.tenant_id AND i.id = l.invoice_id
WHERE l.tenant_id = @tenant_id AND l.item_id = @item_id::uuid AND l.period_start = @period_start::timestamptz
  AND (i.status IN ('open', 'paid') OR i.waived)
ORDER BY l.invoice_id, l.line_number;
