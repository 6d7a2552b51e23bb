-- Invoice path, steps 1 and 4: what invoices charge for licensed items. All writes are under the subscriptions' row locks.

-- name: InsertFeePeriods :exec
-- A period's charges, for each licensed item that the subscriptions have: in advance on the invoice at the period's
-- start, in arrears on the one at its end.
INSERT INTO fee_periods (
    tenant_id, subscription_id, item_id, price_id, quantity, reason, billing_timing, period_start, period_end,
    nominal_start, nominal_end, bill_kind, bill_boundary)
SELECT i.tenant_id, i.subscription_id, i.id, i.price_id, i.quantity, g.reason, p.billing_timing, g.period_start,
       g.period_end, g.nominal_start, g.nominal_end,
       CASE WHEN p.billing_timing = 'in_advance' OR g.start_kind = 'imported' THEN g.start_kind ELSE 'period' END,
       CASE WHEN p.billing_timing = 'in_advance' OR g.start_kind = 'imported' THEN g.start_boundary ELSE g.period_end END
FROM unnest(
    @tenant_ids::uuid[], @subscription_ids::uuid[], @reasons::text[], @start_kinds::text[], @start_boundaries::timestamptz[],
    @period_starts::timestamptz[], @period_ends::timestamptz[], @nominal_starts::timestamptz[],
    @nominal_ends::timestamptz[]
) AS g (
    tenant_id, subscription_id, reason, start_kind, start_boundary, period_start, period_end, nominal_start, nominal_end
)
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

-- name: InsertItemFees :exec
-- What a change charges and gives back.
INSERT INTO fee_periods (
    tenant_id, subscription_id, item_id, price_id, quantity, reason, billing_timing, period_start, period_end,
    nominal_start, nominal_end, bill_kind, bill_boundary, gives_back)
SELECT @tenant_id, @subscription_id, g.item_id, g.price_id, g.quantity::numeric, g.reason, g.billing_timing,
       g.period_start, g.period_end, g.nominal_start, g.nominal_end, g.bill_kind, g.bill_boundary, g.gives_back
FROM unnest(
    @item_ids::uuid[], @price_ids::uuid[], @quantities::text[], @reasons::text[], @billing_timings::text[],
    @period_starts::timestamptz[], @period_ends::timestamptz[], @nominal_starts::timestamptz[],
    @nominal_ends::timestamptz[], @bill_kinds::text[], @bill_boundaries::timestamptz[],
    sqlc.narg(gives_backs)::bigint[]
) WITH ORDINALITY AS g (
    item_id, price_id, quantity, reason, billing_timing, period_start, period_end, nominal_start, nominal_end, bill_kind,
    bill_boundary, gives_back, place
)
ORDER BY g.place;

-- name: ListLiveFees :many
-- The charges that reach beyond @at, as far as they were not given back. `is_charged`: an invoice of ours charges it, a draft still or
-- one that is neither void without a successor nor waived; false where another system has billed the period.
SELECT sqlc.embed(f),
       (f.bill_kind <> 'imported' AND NOT EXISTS (
           SELECT FROM invoices i
           WHERE i.tenant_id = f.tenant_id AND i.subscription_id = f.subscription_id AND i.kind = f.bill_kind
             AND i.boundary = f.bill_boundary AND i.waived
       ))::boolean AS is_charged
FROM fee_periods f
WHERE f.tenant_id = @tenant_id AND f.subscription_id = @subscription_id AND f.reason <> 'credit'
  AND coalesce(f.ended_at, f.period_end) > greatest(f.period_start, @at::timestamptz)
ORDER BY f.id;

-- name: EndFees :exec
-- Charges in advance that are given back from @ended_at on.
UPDATE fee_periods SET ended_at = @ended_at::timestamptz
WHERE tenant_id = @tenant_id AND id = ANY (@ids::bigint[]);

-- name: CutFees :exec
-- Charges in arrears, which no invoice carries yet, end at @at.
UPDATE fee_periods SET period_end = @at::timestamptz
WHERE tenant_id = @tenant_id AND id = ANY (@ids::bigint[]) AND period_start < @at;

-- name: DeleteFees :exec
-- Those that would begin at @at or later will not be charged.
DELETE FROM fee_periods
WHERE tenant_id = @tenant_id AND id = ANY (@ids::bigint[]) AND period_start >= @at::timestamptz;

-- name: RekeyFees :exec
-- What the period's invoice was to charge is charged by another one.
UPDATE fee_periods SET bill_kind = @kind, bill_boundary = @boundary::timestamptz
WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id
  AND bill_kind = 'period' AND bill_boundary = @old_boundary::timestamptz;

-- name: ListFeesToCome :many
-- The charges in advance that the subscription's licensed items will have for a period, were it begun now.
SELECT i.id AS item_id, i.price_id, i.quantity
FROM subscription_items i
JOIN prices p ON p.tenant_id = i.tenant_id AND p.id = i.price_id
WHERE i.tenant_id = @tenant_id AND i.subscription_id = @subscription_id AND i.meter_id IS NULL AND i.ended_at IS NULL
  AND p.billing_timing = 'in_advance'
ORDER BY i.id;
