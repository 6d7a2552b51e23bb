-- Invoice path: drafts, and invoices as they are read.

-- name: InsertDrafts :many
-- A draft for each closed cycle that has no invoice that counts. At an activation no period ends, so one with nothing to
-- charge has none; what joins it later has a key of its own, or waits for the next.
INSERT INTO invoices (
    tenant_id, id, customer_id, subscription_id, kind, boundary, currency, closed_at, finalize_at, correlation_id,
    causation_id, created_at)
SELECT c.tenant_id, g.id, s.customer_id, c.subscription_id, c.kind, c.boundary, s.currency, c.closed_at,
       c.closed_at + make_interval(secs => @grace_s::double precision), g.correlation_id, g.causation_id, g.created_at
FROM unnest(
    @tenant_ids::uuid[], @ids::uuid[], @subscription_ids::uuid[], @kinds::text[], @boundaries::timestamptz[],
    @correlation_ids::uuid[], @causation_ids::uuid[], @created_ats::timestamptz[]
) AS g (tenant_id, id, subscription_id, kind, boundary, correlation_id, causation_id, created_at)
JOIN billing_cycles c ON c.tenant_id = g.tenant_id AND c.subscription_id = g.subscription_id
    AND c.kind = g.kind AND c.boundary = g.boundary
JOIN subscriptions s ON s.tenant_id = c.tenant_id AND s.id = c.subscription_id
WHERE c.closed_at IS NOT NULL
  AND (c.kind <> 'activation'
    OR EXISTS (
        SELECT FROM fee_periods f
        WHERE f.tenant_id = c.tenant_id AND f.subscription_id = c.subscription_id AND f.bill_kind = c.kind
          AND f.bill_boundary = c.boundary)
    OR EXISTS (
        SELECT FROM usage_periods p
        WHERE p.tenant_id = c.tenant_id AND p.subscription_id = c.subscription_id AND p.bill_kind = c.kind
          AND p.bill_boundary = c.boundary)
    OR EXISTS (
        SELECT FROM invoice_items t
        WHERE t.tenant_id = c.tenant_id AND t.subscription_id = c.subscription_id AND t.invoice_id IS NULL
          AND t.removed_at IS NULL))
ORDER BY c.tenant_id, c.subscription_id, c.kind, c.boundary
ON CONFLICT DO NOTHING
RETURNING *;

-- name: GetInvoice :one
SELECT * FROM invoices WHERE tenant_id = @tenant_id AND id = @id;

-- name: ListInvoices :many
-- Newest first, those made before @before.
SELECT * FROM invoices
WHERE tenant_id = @tenant_id
  AND (sqlc.narg(before)::uuid IS NULL OR id < sqlc.narg(before)::uuid)
  AND (sqlc.narg(customer_id)::uuid IS NULL OR customer_id = sqlc.narg(customer_id)::uuid)
  AND (sqlc.narg(subscription_id)::uuid IS NULL OR subscription_id = sqlc.narg(subscription_id)::uuid)
  AND (sqlc.narg(status)::text IS NULL OR status = sqlc.narg(status)::text)
  AND (NOT @blocked::boolean OR (status = 'draft' AND blocked_reason IS NOT NULL))
  AND (sqlc.narg(kind)::text IS NULL OR kind = sqlc.narg(kind)::text)
  AND (sqlc.narg(number)::text IS NULL OR number = sqlc.narg(number)::text)
  AND (sqlc.narg(created_from)::timestamptz IS NULL OR created_at >= sqlc.narg(created_from)::timestamptz)
  AND (sqlc.narg(created_until)::timestamptz IS NULL OR created_at < sqlc.narg(created_until)::timestamptz)
  AND (sqlc.narg(finalized_from)::timestamptz IS NULL OR finalized_at >= sqlc.narg(finalized_from)::timestamptz)
  AND (sqlc.narg(finalized_until)::timestamptz IS NULL OR finalized_at < sqlc.narg(finalized_until)::timestamptz)
ORDER BY id DESC
LIMIT @page_max;

-- name: ListInvoiceLines :many
SELECT * FROM invoice_lines WHERE tenant_id = @tenant_id AND invoice_id = @invoice_id ORDER BY line_number;

-- name: ListPeriodsToBill :many
-- What finalization would lock for these drafts, for a preview: the usage periods that they bill, and those marked for
-- an adjustment.
SELECT p.* FROM usage_periods p
WHERE (p.tenant_id, p.item_id, p.period_start) IN (
    SELECT o.tenant_id, o.item_id, o.period_start
    FROM unnest(@tenant_ids::uuid[], @subscription_ids::uuid[], @kinds::text[], @boundaries::timestamptz[])
        AS g (tenant_id, subscription_id, kind, boundary)
    JOIN usage_periods o ON o.tenant_id = g.tenant_id AND o.subscription_id = g.subscription_id
        AND o.bill_kind = g.kind AND o.bill_boundary = g.boundary
    UNION
    SELECT m.tenant_id, m.item_id, m.period_start
    FROM unnest(@tenant_ids::uuid[], @subscription_ids::uuid[]) AS g (tenant_id, subscription_id)
    JOIN usage_period_marks m ON m.tenant_id = g.tenant_id AND m.subscription_id = g.subscription_id
        AND m.kind = 'adjust'
)
ORDER BY p.tenant_id, p.item_id, p.period_start;

-- name: ListEarlierLines :many
-- What finalized invoices that are not void, or are waived, carry for these usage periods already, with the discounts in
-- percent of those invoices. Of whatever kind the line is: a metered item has no other lines than those of its usage.
SELECT l.tenant_id, l.item_id::uuid AS item_id, l.period_start::timestamptz AS period_start, l.invoice_id,
       i.number::text AS number, l.line_number, l.amount, i.currency, i.waived, l.discount, l.tax_percent,
       ARRAY(
           SELECT d.percent::text FROM invoice_discounts d
           WHERE d.tenant_id = l.tenant_id AND d.invoice_id = l.invoice_id AND d.percent IS NOT NULL
           ORDER BY d.position
       )::text[] AS percents
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[]) AS g (tenant_id, item_id, period_start)
JOIN invoice_lines l ON l.tenant_id = g.tenant_id AND l.item_id = g.item_id AND l.period_start = g.period_start
JOIN invoices i ON i.tenant_id = l.tenant_id AND i.id = l.invoice_id
WHERE i.status IN ('open', 'paid') OR i.waived
ORDER BY i.finalized_at, length(i.number), i.number, l.line_number;
