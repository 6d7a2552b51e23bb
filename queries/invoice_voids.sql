-- Invoice path, after step 5: a final invoice is taken back. Lock order: subscription, usage period, invoice, balance.

-- name: LockPeriodsOfInvoice :many
-- Every usage period that the invoice bills or adjusts: those of its own key, those that its lines name, and those of the
-- billing periods whose commitment it adjusts.
SELECT p.* FROM usage_periods p
WHERE (p.tenant_id, p.item_id, p.period_start) IN (
    SELECT l.tenant_id, l.item_id, l.period_start FROM invoice_lines l
    WHERE l.tenant_id = @tenant_id AND l.invoice_id = @invoice_id
    UNION
    SELECT o.tenant_id, o.item_id, o.period_start FROM usage_periods o
    JOIN invoices i ON i.tenant_id = o.tenant_id AND i.subscription_id = o.subscription_id
        AND i.kind = o.bill_kind AND i.boundary = o.bill_boundary
    WHERE i.tenant_id = @tenant_id AND i.id = @invoice_id
    UNION
    SELECT o.tenant_id, o.item_id, o.period_start FROM invoice_lines l
    JOIN invoices i ON i.tenant_id = l.tenant_id AND i.id = l.invoice_id
    JOIN billing_cycles c ON c.tenant_id = i.tenant_id AND c.subscription_id = i.subscription_id
        AND c.period_start = l.period_start
    JOIN usage_periods o ON o.tenant_id = c.tenant_id AND o.subscription_id = c.subscription_id
        AND o.bill_kind = c.kind AND o.bill_boundary = c.boundary
    WHERE l.tenant_id = @tenant_id AND l.invoice_id = @invoice_id AND l.kind = 'commitment'
)
ORDER BY p.tenant_id, p.item_id, p.period_start
FOR NO KEY UPDATE OF p;

-- name: LockInvoice :one
SELECT * FROM invoices WHERE tenant_id = @tenant_id AND id = @id FOR NO KEY UPDATE;

-- name: VoidInvoice :one
-- No row when it has left the state that it was read in.
UPDATE invoices
SET status = 'void', waived = @waived, voided_at = @at::timestamptz, void_reason = @reason, amount_due = 0,
    version = version + 1
WHERE tenant_id = @tenant_id AND id = @id AND status = @from_status
RETURNING *;

-- name: ReissueInvoice :one
-- A new draft for the key of a void invoice.
INSERT INTO invoices (
    tenant_id, id, customer_id, subscription_id, kind, boundary, currency, closed_at, finalize_at, replaces,
    correlation_id, causation_id, created_at, memo)
SELECT i.tenant_id, @new_id::uuid, i.customer_id, i.subscription_id, i.kind, i.boundary, i.currency, @at::timestamptz,
       sqlc.narg(finalize_at)::timestamptz, i.id, @correlation_id::uuid, @causation_id::uuid, @at::timestamptz, i.memo
FROM invoices i
WHERE i.tenant_id = @tenant_id AND i.id = @id AND i.status = 'void' AND NOT i.waived
RETURNING *;

-- name: ReopenPeriods :exec
-- The void invoice's own usage periods are unbilled again. For callers that hold the rows' locks.
UPDATE usage_periods p SET status = @to_status
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[]) AS g (tenant_id, item_id, period_start)
WHERE p.tenant_id = g.tenant_id AND p.item_id = g.item_id AND p.period_start = g.period_start
  AND p.status = ANY (@from_statuses::text[]);

-- name: MarkPeriods :exec
-- For callers that hold the rows' locks: the periods are due for rating, or to be adjusted by the next invoice.
INSERT INTO usage_period_marks (tenant_id, item_id, period_start, subscription_id, kind, event_id, correlation_id)
SELECT g.tenant_id, g.item_id, g.period_start, g.subscription_id, g.kind, @event_id, @correlation_id
FROM unnest(
    @tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[], @subscription_ids::uuid[], @kinds::text[]
) AS g (tenant_id, item_id, period_start, subscription_id, kind)
ORDER BY g.tenant_id, g.item_id, g.period_start;

-- name: DeleteCreditsOfWaivedFees :exec
-- Of a waived fee nothing is given back: credits for it that no final invoice carries go, from drafts and from what is to
-- come. For callers that hold the subscription's lock.
DELETE FROM fee_periods f
USING fee_periods c
JOIN invoices w ON w.tenant_id = c.tenant_id AND w.subscription_id = c.subscription_id AND w.kind = c.bill_kind
    AND w.boundary = c.bill_boundary AND w.waived
WHERE f.tenant_id = @tenant_id AND f.subscription_id = @subscription_id AND c.tenant_id = f.tenant_id
  AND c.id = f.gives_back
  AND NOT EXISTS (
      SELECT FROM invoices i
      WHERE i.tenant_id = f.tenant_id AND i.subscription_id = f.subscription_id AND i.kind = f.bill_kind
        AND i.boundary = f.bill_boundary AND (i.status IN ('open', 'paid') OR i.waived)
  );
