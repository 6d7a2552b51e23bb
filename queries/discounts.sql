-- Invoice path, step 4: discounts, and what they took.

-- name: InsertDiscount :one
INSERT INTO discounts (
    tenant_id, id, customer_id, subscription_id, display_name, percent, amount, currency, periods, created_at)
VALUES (
    @tenant_id, @id, @customer_id, sqlc.narg(subscription_id), @display_name, sqlc.narg(percent), sqlc.narg(amount),
    sqlc.narg(currency), sqlc.narg(periods), @created_at)
RETURNING *;

-- name: EndDiscount :one
-- No row when there is none, or it has ended.
UPDATE discounts SET ended_at = @now::timestamptz
WHERE tenant_id = @tenant_id AND id = @id AND ended_at IS NULL
RETURNING *;

-- name: CountLiveDiscounts :one
SELECT count(*) FROM discounts d
CROSS JOIN LATERAL (
    SELECT count(*) AS uses FROM invoice_discounts x
    JOIN invoices o ON o.tenant_id = x.tenant_id AND o.id = x.invoice_id
    WHERE x.tenant_id = d.tenant_id AND x.discount_id = d.id AND x.counted AND (o.status <> 'void' OR o.waived)
) AS u
WHERE d.tenant_id = @tenant_id AND d.customer_id = @customer_id AND d.ended_at IS NULL
  AND (d.periods IS NULL OR u.uses < d.periods);

-- name: GetDiscount :one
SELECT sqlc.embed(d), u.uses::bigint AS uses
FROM discounts d
CROSS JOIN LATERAL (
    SELECT count(*) AS uses FROM invoice_discounts x
    JOIN invoices o ON o.tenant_id = x.tenant_id AND o.id = x.invoice_id
    WHERE x.tenant_id = d.tenant_id AND x.discount_id = d.id AND x.counted AND (o.status <> 'void' OR o.waived)
) AS u
WHERE d.tenant_id = @tenant_id AND d.id = @id;

-- name: ListDiscounts :many
-- Newest first, those made before @before, with how often each has counted.
SELECT sqlc.embed(d), u.uses::bigint AS uses
FROM discounts d
CROSS JOIN LATERAL (
    SELECT count(*) AS uses FROM invoice_discounts x
    JOIN invoices o ON o.tenant_id = x.tenant_id AND o.id = x.invoice_id
    WHERE x.tenant_id = d.tenant_id AND x.discount_id = d.id AND x.counted AND (o.status <> 'void' OR o.waived)
) AS u
WHERE d.tenant_id = @tenant_id AND d.customer_id = @customer_id
  AND (sqlc.narg(before)::uuid IS NULL OR d.id < sqlc.narg(before)::uuid)
ORDER BY d.id DESC
LIMIT @page_max;

-- name: ListDraftDiscounts :many
-- The discounts that may still lower the drafts, oldest first, and how often each has counted. A change within a period that
-- has counted does not count; one that ends the period for another interval does.
SELECT g.invoice_id::uuid AS invoice_id, sqlc.embed(d), u.uses::bigint AS uses,
       (NOT EXISTS (
           SELECT FROM invoices i
           JOIN billing_cycles c ON c.tenant_id = i.tenant_id AND c.subscription_id = i.subscription_id
               AND c.kind = i.kind AND c.boundary = i.boundary
           WHERE i.tenant_id = g.tenant_id AND i.id = g.invoice_id AND i.kind = 'change' AND c.period_start IS NULL
       ))::boolean AS counts
FROM unnest(
    @tenant_ids::uuid[], @invoice_ids::uuid[], @customer_ids::uuid[], sqlc.narg(subscription_ids)::uuid[],
    @currencies::text[]
) AS g (tenant_id, invoice_id, customer_id, subscription_id, currency)
JOIN discounts d ON d.tenant_id = g.tenant_id AND d.customer_id = g.customer_id
    AND (d.subscription_id IS NULL OR d.subscription_id = g.subscription_id)
    AND (d.currency IS NULL OR d.currency = g.currency)
CROSS JOIN LATERAL (
    SELECT count(*) AS uses FROM invoice_discounts x
    JOIN invoices o ON o.tenant_id = x.tenant_id AND o.id = x.invoice_id
    WHERE x.tenant_id = d.tenant_id AND x.discount_id = d.id AND x.counted AND (o.status <> 'void' OR o.waived)
) AS u
WHERE d.ended_at IS NULL AND (d.periods IS NULL OR u.uses < d.periods)
ORDER BY g.invoice_id, d.id;

-- name: InsertInvoiceDiscounts :exec
INSERT INTO invoice_discounts (tenant_id, invoice_id, position, discount_id, display_name, percent, amount, counted)
SELECT g.tenant_id, g.invoice_id, g.position, g.discount_id, g.display_name, g.percent::numeric, g.amount, g.counted
FROM unnest(
    @tenant_ids::uuid[], @invoice_ids::uuid[], @positions::integer[], @discount_ids::uuid[], @display_names::text[],
    sqlc.narg(percents)::text[], @amounts::bigint[], @counteds::boolean[]
) AS g (tenant_id, invoice_id, position, discount_id, display_name, percent, amount, counted)
ORDER BY g.tenant_id, g.invoice_id, g.position;

-- name: ListInvoiceDiscounts :many
SELECT * FROM invoice_discounts WHERE tenant_id = @tenant_id AND invoice_id = @invoice_id ORDER BY position;
