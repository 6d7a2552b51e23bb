-- Invoice path, steps 1 and 4: what invoices charge for licensed items. All writes are under the subscriptions' row locks.

-- name: InsertFeePeriods :exec
-- A period's charges, for each licensed item that the subscriptions have: in advance on the invoice at the period's
-- start, in arrears on the one at its end.
INSERT INTO fee_periods (
    tenant_id, subscription_id, item_id, price_id, quantity, reason, billing_timing, period_start, period_end,
    nominal_start, nominal_end, bill_kind, bill_boundary)
SELECT i.tenant_id, i.subscription_id, i.id, i.price_id, i.quantity, g.reason, p.billing_timing, g.period_start,
       g.period_end, g.nominal_start, g.nominal_end,
       CASE p.billing_timing WHEN 'in_advance' THEN g.start_kind ELSE 'period' END,
       CASE p.billing_timing WHEN 'in_advance' THEN g.period_start ELSE g.period_end END
FROM unnest(
    @tenant_ids::uuid[], @subscription_ids::uuid[], @reasons::text[], @start_kinds::text[],
    @period_starts::timestamptz[], @period_ends::timestamptz[], @nominal_starts::timestamptz[],
    @nominal_ends::timestamptz[]
) AS g (tenant_id, subscription_id, reason, start_kind, period_start, period_end, nominal_start, nominal_end)
JOIN subscription_items i ON i.tenant_id = g.tenant_id AND i.subscription_id = g.subscription_id
JOIN prices p ON p.tenant_id = i.tenant_id AND p.id = i.price_id
WHERE i.meter_id IS NULL AND i.ended_at IS NULL
ORDER BY i.tenant_id, i.subscription_id, i.id, g.period_start
ON CONFLICT DO NOTHING;

-- name: ListDraftFees :many
-- What the drafts charge and give back for licensed items, in the order in which it came about.
SELECT g.invoice_id::uuid AS invoice_id, sqlc.embed(f)
FROM unnest(@tenant_ids::uuid[], @invoice_ids::uuid[], @subscription_ids::uuid[], @kinds::text[], @boundaries::timestamptz[])
    AS g (tenant_id, invoice_id, subscription_id, kind, boundary)
JOIN fee_periods f ON f.tenant_id = g.tenant_id AND f.subscription_id = g.subscription_id
    AND f.bill_kind = g.kind AND f.bill_boundary = g.boundary
ORDER BY f.id;

-- name: ListFeesToCome :many
-- The charges in advance that the subscription's licensed items will have for a period, were it begun now.
SELECT i.id AS item_id, i.price_id, i.quantity
FROM subscription_items i
JOIN prices p ON p.tenant_id = i.tenant_id AND p.id = i.price_id
WHERE i.tenant_id = @tenant_id AND i.subscription_id = @subscription_id AND i.meter_id IS NULL AND i.ended_at IS NULL
  AND p.billing_timing = 'in_advance'
ORDER BY i.id;
