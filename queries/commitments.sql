-- Invoice path, step 4: what plans promise for a billing period, and what counts towards it.

-- name: ListPromises :many
-- Of the given cycles those that end a period which owes a commitment, a row for each plan that it had on the way, in order.
SELECT w.tenant_id, w.subscription_id, w.kind, w.boundary, w.period_start::timestamptz AS period_start,
       w.stretch_start::timestamptz AS stretch_start, w.stretch_end::timestamptz AS stretch_end,
       w.commitment::numeric AS commitment, w.display_name, w.billing_interval, w.currency, w.time_zone, w.anchor_at
FROM (
    SELECT c.tenant_id, c.subscription_id, c.kind, c.boundary, c.period_start,
           coalesce(p.starts_at, c.period_start) AS stretch_start,
           coalesce(lead(p.starts_at) OVER (
               PARTITION BY c.tenant_id, c.subscription_id, c.kind, c.boundary ORDER BY p.starts_at
           ), c.boundary) AS stretch_end,
           coalesce(l.commitment, 0) AS commitment,
           max(l.commitment) OVER (PARTITION BY c.tenant_id, c.subscription_id, c.kind, c.boundary) AS highest,
           l.display_name, l.billing_interval, s.currency, s.time_zone, s.anchor_at
    FROM unnest(@tenant_ids::uuid[], @subscription_ids::uuid[], @kinds::text[], @boundaries::timestamptz[])
        AS g (tenant_id, subscription_id, kind, boundary)
    JOIN subscriptions s ON s.tenant_id = g.tenant_id AND s.id = g.subscription_id
    JOIN billing_cycles c ON c.tenant_id = g.tenant_id AND c.subscription_id = g.subscription_id AND c.kind = g.kind
        AND c.boundary = g.boundary
    LEFT JOIN plan_stretches p ON p.tenant_id = c.tenant_id AND p.subscription_id = c.subscription_id
        AND p.starts_at >= c.period_start AND p.starts_at < c.boundary
    JOIN plans l ON l.tenant_id = c.tenant_id AND l.id = coalesce(p.plan_id, c.plan_id)
    WHERE c.period_start IS NOT NULL AND c.plan_id IS NOT NULL
) AS w
WHERE w.highest IS NOT NULL
ORDER BY w.tenant_id, w.subscription_id, w.boundary, w.kind, w.stretch_start;

-- name: ListUnbilledCycles :many
-- The cycles of a subscription whose periods no invoice that counts has billed, oldest first: the open one, and drafts'.
SELECT c.kind, c.boundary FROM billing_cycles c
WHERE c.tenant_id = @tenant_id AND c.subscription_id = @subscription_id AND c.period_start IS NOT NULL
  AND NOT EXISTS (
      SELECT FROM invoices i
      WHERE i.tenant_id = c.tenant_id AND i.subscription_id = c.subscription_id AND i.kind = c.kind
        AND i.boundary = c.boundary AND (i.status IN ('open', 'paid') OR i.waived)
  )
ORDER BY c.boundary;

-- name: ListPromisedUsage :many
-- The usage periods that these cycles bill.
SELECT p.*
FROM unnest(@tenant_ids::uuid[], @subscription_ids::uuid[], @kinds::text[], @boundaries::timestamptz[])
    AS g (tenant_id, subscription_id, kind, boundary)
JOIN usage_periods p ON p.tenant_id = g.tenant_id AND p.subscription_id = g.subscription_id
    AND p.bill_kind = g.kind AND p.bill_boundary = g.boundary
ORDER BY p.tenant_id, p.item_id, p.period_start;

-- name: ListPromisedFees :many
-- What is charged for the time of these cycles, on whatever invoice, and what was given back of it. A charge is of the cycle
-- in which it ends, so one that begins with another interval is not of the cycle that ends there, wherever a plan by day cuts;
-- by day a cancellation charges beyond its instant. One of which no time was left is of none.
SELECT g.kind::text AS kind, g.boundary::timestamptz AS boundary, sqlc.embed(f)
FROM unnest(
    @tenant_ids::uuid[], @subscription_ids::uuid[], @kinds::text[], @boundaries::timestamptz[],
    @period_starts::timestamptz[]
) AS g (tenant_id, subscription_id, kind, boundary, period_start)
JOIN fee_periods h ON h.tenant_id = g.tenant_id AND h.subscription_id = g.subscription_id AND h.reason <> 'credit'
    AND coalesce(h.ended_at, h.period_end) > greatest(g.period_start, h.period_start)
    AND (g.kind = 'final' OR coalesce(h.ended_at, h.period_end) <= g.boundary)
JOIN fee_periods f ON f.tenant_id = h.tenant_id AND f.subscription_id = h.subscription_id
    AND coalesce(f.gives_back, f.id) = h.id
ORDER BY f.tenant_id, f.id;

-- name: ListEarlierTrueUps :many
-- What finalized invoices that are not void, or are waived, carry as commitment for these periods already, with the
-- discounts in percent of those invoices.
SELECT g.tenant_id::uuid AS tenant_id, g.subscription_id::uuid AS subscription_id,
       g.period_start::timestamptz AS period_start, l.invoice_id, i.number::text AS number, l.line_number, l.amount,
       i.currency, i.waived, l.discount, l.tax_percent,
       ARRAY(
           SELECT d.percent::text FROM invoice_discounts d
           WHERE d.tenant_id = l.tenant_id AND d.invoice_id = l.invoice_id AND d.percent IS NOT NULL
           ORDER BY d.position
       )::text[] AS percents
FROM unnest(@tenant_ids::uuid[], @subscription_ids::uuid[], @period_starts::timestamptz[])
    AS g (tenant_id, subscription_id, period_start)
JOIN invoices i ON i.tenant_id = g.tenant_id AND i.subscription_id = g.subscription_id
JOIN invoice_lines l ON l.tenant_id = i.tenant_id AND l.invoice_id = i.id
WHERE l.kind = 'commitment' AND l.period_start = g.period_start AND (i.status IN ('open', 'paid') OR i.waived)
ORDER BY i.finalized_at, length(i.number), i.number, l.line_number;
