-- Invoice path, step 4: what people put on invoices. Items move under the lock of their subscription or manual invoice.

-- name: InsertInvoiceItem :one
INSERT INTO invoice_items (
    tenant_id, id, customer_id, subscription_id, invoice_id, description, quantity, unit_amount, amount, currency,
    tax_percent, created_at)
VALUES (
    @tenant_id, @id, @customer_id, sqlc.narg(subscription_id), sqlc.narg(invoice_id), @description, @quantity,
    @unit_amount, @amount, @currency, sqlc.narg(tax_percent), @created_at)
RETURNING *;

-- name: GetInvoiceItem :one
SELECT * FROM invoice_items WHERE tenant_id = @tenant_id AND id = @id AND removed_at IS NULL;

-- name: RemoveInvoiceItem :exec
-- The row stays: a void invoice may have a line of it.
UPDATE invoice_items SET removed_at = @now::timestamptz WHERE tenant_id = @tenant_id AND id = @id AND removed_at IS NULL;

-- name: CountInvoiceItems :one
SELECT count(*) FROM invoice_items WHERE tenant_id = @tenant_id AND invoice_id = @invoice_id::uuid AND removed_at IS NULL;

-- name: CountWaitingItems :one
SELECT count(*) FROM invoice_items
WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id::uuid AND invoice_id IS NULL AND removed_at IS NULL;

-- name: ListWaitingItems :many
-- Items that wait for a subscription's next invoice, oldest first, those after @after.
SELECT * FROM invoice_items
WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id::uuid AND invoice_id IS NULL AND removed_at IS NULL
  AND (sqlc.narg(after)::uuid IS NULL OR id > sqlc.narg(after)::uuid)
ORDER BY id
LIMIT @page_max;

-- name: ListInvoiceItems :many
-- Items of an invoice, oldest first, those after @after.
SELECT * FROM invoice_items
WHERE tenant_id = @tenant_id AND invoice_id = @invoice_id::uuid AND removed_at IS NULL
  AND (sqlc.narg(after)::uuid IS NULL OR id > sqlc.narg(after)::uuid)
ORDER BY id
LIMIT @page_max;

-- name: ListDraftItems :many
-- What the drafts take: their own items, and those that wait for the subscription's next invoice. The drafts need not be
-- stored: a preview looks ahead.
SELECT g.invoice_id::uuid AS draft_id, sqlc.embed(t)
FROM unnest(@tenant_ids::uuid[], @invoice_ids::uuid[], sqlc.narg(subscription_ids)::uuid[])
    AS g (tenant_id, invoice_id, subscription_id)
JOIN invoice_items t ON t.tenant_id = g.tenant_id
    AND (t.invoice_id = g.invoice_id OR (t.invoice_id IS NULL AND t.subscription_id = g.subscription_id))
    AND t.removed_at IS NULL
ORDER BY g.invoice_id, t.id;

-- name: TakeInvoiceItems :execrows
-- Items that waited stand on these invoices now. For callers that hold the subscriptions' locks.
UPDATE invoice_items t SET invoice_id = g.invoice_id
FROM unnest(@tenant_ids::uuid[], @ids::uuid[], @invoice_ids::uuid[]) AS g (tenant_id, id, invoice_id)
WHERE t.tenant_id = g.tenant_id AND t.id = g.id AND (t.invoice_id IS NULL OR t.invoice_id = g.invoice_id)
  AND t.removed_at IS NULL;

-- name: MoveInvoiceItems :execrows
-- A voided invoice is made again: its items go over to the new draft.
UPDATE invoice_items SET invoice_id = @to_invoice_id
WHERE tenant_id = @tenant_id AND invoice_id = @from_invoice_id::uuid;

-- name: ListDraftTaxes :many
-- The tax percentage that each draft's customer has of its own, and its credit in the draft's currency.
SELECT g.invoice_id::uuid AS invoice_id, c.tax_percent, coalesce(b.balance, 0)::bigint AS credit
FROM unnest(@tenant_ids::uuid[], @invoice_ids::uuid[], @customer_ids::uuid[], @currencies::text[])
    AS g (tenant_id, invoice_id, customer_id, currency)
JOIN customers c ON c.tenant_id = g.tenant_id AND c.id = g.customer_id
LEFT JOIN credit_balances b ON b.tenant_id = g.tenant_id AND b.customer_id = g.customer_id AND b.currency = g.currency;

-- name: ListCreditedFees :many
-- Of each fee that the drafts give back: the final lines that charged for it, the fee's and, behind it, its true-up to a
-- minimum or maximum.
SELECT c.tenant_id, c.id, l.kind, l.amount, l.discount, l.tax_percent
FROM unnest(@tenant_ids::uuid[], @invoice_ids::uuid[]) AS g (tenant_id, invoice_id)
JOIN invoices i ON i.tenant_id = g.tenant_id AND i.id = g.invoice_id
JOIN fee_periods f ON f.tenant_id = i.tenant_id AND f.subscription_id = i.subscription_id
    AND f.bill_kind = i.kind AND f.bill_boundary = i.boundary AND f.reason = 'credit'
JOIN fee_periods c ON c.tenant_id = f.tenant_id AND c.id = f.gives_back
CROSS JOIN LATERAL (
    SELECT x.invoice_id, x.line_number
    FROM invoices o
    JOIN invoice_lines x ON x.tenant_id = o.tenant_id AND x.invoice_id = o.id
    WHERE o.tenant_id = c.tenant_id AND o.subscription_id = c.subscription_id AND o.kind = c.bill_kind
      AND o.boundary = c.bill_boundary AND (o.status IN ('open', 'paid') OR o.waived)
      AND x.kind = 'fee' AND x.item_id = c.item_id AND x.price_id = c.price_id AND x.period_start = c.period_start
      AND x.amount >= 0
    ORDER BY x.line_number
    LIMIT 1
    OFFSET (  -- changes at one instant charge the same more than once
        SELECT count(*) FROM fee_periods e
        WHERE e.tenant_id = c.tenant_id AND e.subscription_id = c.subscription_id AND e.bill_kind = c.bill_kind
          AND e.bill_boundary = c.bill_boundary AND e.reason <> 'credit' AND e.item_id = c.item_id
          AND e.price_id = c.price_id AND e.period_start = c.period_start AND e.id < c.id
    )
) AS f_line
JOIN invoice_lines l ON l.tenant_id = c.tenant_id AND l.invoice_id = f_line.invoice_id AND l.amount <> 0
    AND (l.line_number = f_line.line_number OR l.line_number = f_line.line_number + 1 AND l.kind = 'true_up'
         AND l.item_id = c.item_id AND l.period_start = c.period_start)
ORDER BY c.tenant_id, c.id;
