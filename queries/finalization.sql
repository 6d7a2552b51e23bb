-- Invoice path, steps 4 and 5: drafts become final. Lock order: subscription, usage period, invoice, sequence.

-- name: ClaimDueDrafts :many
-- Drafts whose grace has passed, of tenants that live in machine time, and whether their usage is still on its way:
-- records accepted before the cycle closed that no fold has given an owner yet.
SELECT i.tenant_id, i.id, i.subscription_id::uuid AS subscription_id, i.kind, i.boundary,
       EXISTS (
           SELECT FROM usage_records r
           WHERE r.tenant_id = i.tenant_id AND r.customer_id = i.customer_id AND NOT r.folded
             AND r.accepted_at <= i.closed_at
       )::boolean AS usage_pending
FROM invoices i
JOIN subscriptions s ON s.tenant_id = i.tenant_id AND s.id = i.subscription_id
WHERE i.status = 'draft' AND i.finalize_at <= @now::timestamptz
  AND (i.retry_at IS NULL OR i.retry_at <= @now::timestamptz)
  AND NOT EXISTS (SELECT FROM test_clocks c WHERE c.tenant_id = i.tenant_id)
ORDER BY i.finalize_at, i.tenant_id, i.id
LIMIT @batch_max
FOR NO KEY UPDATE OF s SKIP LOCKED;

-- name: ClaimDueDraftsOnTestClocks :many
-- The same of tenants with a test clock, of one of them if @tenant_id is given.
SELECT i.tenant_id, i.id, i.subscription_id::uuid AS subscription_id, i.kind, i.boundary,
       EXISTS (
           SELECT FROM usage_records r
           WHERE r.tenant_id = i.tenant_id AND r.customer_id = i.customer_id AND NOT r.folded
             AND r.accepted_at <= i.closed_at
       )::boolean AS usage_pending
FROM test_clocks c
JOIN invoices i ON i.tenant_id = c.tenant_id AND i.finalize_at <= c.business_time AND i.status = 'draft'
JOIN subscriptions s ON s.tenant_id = i.tenant_id AND s.id = i.subscription_id
WHERE (sqlc.narg(tenant_id)::uuid IS NULL OR c.tenant_id = sqlc.narg(tenant_id)::uuid)
  AND (i.retry_at IS NULL OR i.retry_at <= @now::timestamptz)
ORDER BY i.finalize_at, i.tenant_id, i.id
LIMIT @batch_max
FOR NO KEY UPDATE OF s SKIP LOCKED;

-- name: ClaimDueManualDrafts :many
-- Manual drafts that were given a time that has come; with @on_test_clocks those of tenants with a test clock, of one of
-- them if @tenant_id is given. They have no subscription to lock, so they are locked themselves.
SELECT i.tenant_id, i.id, i.kind, i.boundary
FROM invoices i
LEFT JOIN test_clocks c ON c.tenant_id = i.tenant_id
WHERE i.status = 'draft' AND i.subscription_id IS NULL AND i.finalize_at <= coalesce(c.business_time, @now::timestamptz)
  AND (c.tenant_id IS NOT NULL) = @on_test_clocks::boolean
  AND (sqlc.narg(tenant_id)::uuid IS NULL OR i.tenant_id = sqlc.narg(tenant_id)::uuid)
  AND (i.retry_at IS NULL OR i.retry_at <= @now::timestamptz)
ORDER BY i.finalize_at, i.tenant_id, i.id
LIMIT @batch_max
FOR NO KEY UPDATE OF i SKIP LOCKED;

-- name: FlagClosing :exec
-- Asks folds to keep off the usage periods that the drafts bill, until @closing_until (machine time).
WITH held AS (
    SELECT p.tenant_id, p.item_id, p.period_start
    FROM unnest(@tenant_ids::uuid[], @subscription_ids::uuid[], @kinds::text[], @boundaries::timestamptz[])
        AS g (tenant_id, subscription_id, kind, boundary)
    JOIN usage_periods p ON p.tenant_id = g.tenant_id AND p.subscription_id = g.subscription_id
        AND p.bill_kind = g.kind AND p.bill_boundary = g.boundary
    WHERE p.status <> 'billed'
    ORDER BY p.tenant_id, p.item_id, p.period_start
    FOR NO KEY UPDATE OF p
)
UPDATE usage_periods SET closing_until = @closing_until::timestamptz
FROM held
WHERE usage_periods.tenant_id = held.tenant_id AND usage_periods.item_id = held.item_id
  AND usage_periods.period_start = held.period_start AND usage_periods.status <> 'billed';

-- name: UnflagClosing :exec
-- For drafts that do not become final now: folds may go on. Who holds a row has it in hand.
WITH held AS (
    SELECT p.tenant_id, p.item_id, p.period_start
    FROM unnest(@tenant_ids::uuid[], @subscription_ids::uuid[], @kinds::text[], @boundaries::timestamptz[])
        AS g (tenant_id, subscription_id, kind, boundary)
    JOIN usage_periods p ON p.tenant_id = g.tenant_id AND p.subscription_id = g.subscription_id
        AND p.bill_kind = g.kind AND p.bill_boundary = g.boundary
    WHERE p.closing_until IS NOT NULL
    ORDER BY p.tenant_id, p.item_id, p.period_start
    FOR NO KEY UPDATE OF p SKIP LOCKED
)
UPDATE usage_periods SET closing_until = NULL
FROM held
WHERE usage_periods.tenant_id = held.tenant_id AND usage_periods.item_id = held.item_id
  AND usage_periods.period_start = held.period_start;

-- name: HoldDrafts :exec
-- Nobody else looks at a draft before its retry_at: it is claimed, or blocked for the reason given.
WITH held AS (
    SELECT i.tenant_id, i.id, g.blocked_reason, g.retry_at
    FROM unnest(@tenant_ids::uuid[], @ids::uuid[], sqlc.narg(blocked_reasons)::text[], @retry_ats::timestamptz[])
        AS g (tenant_id, id, blocked_reason, retry_at)
    JOIN invoices i ON i.tenant_id = g.tenant_id AND i.id = g.id
    WHERE i.status = 'draft'
    ORDER BY i.tenant_id, i.id
    FOR NO KEY UPDATE OF i SKIP LOCKED
)
UPDATE invoices SET retry_at = held.retry_at, blocked_reason = held.blocked_reason
FROM held
WHERE invoices.tenant_id = held.tenant_id AND invoices.id = held.id AND invoices.status = 'draft';

-- name: TakeSubscriptions :many
-- The subscriptions that nobody else holds now, locked.
SELECT s.tenant_id, s.id
FROM unnest(@tenant_ids::uuid[], @ids::uuid[]) AS g (tenant_id, id)
JOIN subscriptions s ON s.tenant_id = g.tenant_id AND s.id = g.id
ORDER BY s.tenant_id, s.id
FOR NO KEY UPDATE OF s SKIP LOCKED;

-- name: LockPeriodsToBill :many
-- In one sorted statement, before any record is read: every usage period that the drafts bill, and every billed one of
-- their subscriptions that folds have marked for an adjustment. A fold that holds one is waited for; a mark that is
-- made after this is the next invoice's.
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
ORDER BY p.tenant_id, p.item_id, p.period_start
FOR NO KEY UPDATE OF p;

-- name: LockDrafts :many
-- Those of the invoices that are drafts still.
SELECT i.*
FROM unnest(@tenant_ids::uuid[], @ids::uuid[]) AS g (tenant_id, id)
JOIN invoices i ON i.tenant_id = g.tenant_id AND i.id = g.id
WHERE i.status = 'draft'
ORDER BY i.tenant_id, i.id
FOR NO KEY UPDATE OF i;

-- name: ListUsagePending :many
-- Those of the drafts whose customer has unfolded records accepted before the cycle closed.
SELECT i.id
FROM unnest(@tenant_ids::uuid[], @ids::uuid[]) AS g (tenant_id, id)
JOIN invoices i ON i.tenant_id = g.tenant_id AND i.id = g.id
WHERE EXISTS (
    SELECT FROM usage_records r
    WHERE r.tenant_id = i.tenant_id AND r.customer_id = i.customer_id AND NOT r.folded AND r.accepted_at <= i.closed_at
);

-- name: InsertLines :exec
INSERT INTO invoice_lines (
    tenant_id, invoice_id, line_number, kind, description, item_id, price_id, period_start, period_end, quantity, amount,
    discount, tax_percent, tax, invoice_item_id, steps, derivation, dimensions)
SELECT g.tenant_id, g.invoice_id, g.line_number, g.kind, g.description, g.item_id, g.price_id, g.period_start,
       g.period_end, g.quantity::numeric, g.amount, g.discount, g.tax_percent::numeric, g.tax, g.invoice_item_id,
       g.steps::jsonb, g.derivation::jsonb, g.dimensions::jsonb
FROM unnest(
    @tenant_ids::uuid[], @invoice_ids::uuid[], @line_numbers::integer[], @kinds::text[], @descriptions::text[],
    sqlc.narg(item_ids)::uuid[], sqlc.narg(price_ids)::uuid[], sqlc.narg(period_starts)::timestamptz[],
    sqlc.narg(period_ends)::timestamptz[], @quantities::text[], @amounts::bigint[], @discounts::bigint[],
    @tax_percents::text[], @taxes::bigint[], sqlc.narg(invoice_item_ids)::uuid[], @steps::text[],
    @derivations::text[], @dimensions::text[]
) AS g (
    tenant_id, invoice_id, line_number, kind, description, item_id, price_id, period_start, period_end, quantity, amount,
    discount, tax_percent, tax, invoice_item_id, steps, derivation, dimensions
)
ORDER BY g.tenant_id, g.invoice_id, g.line_number;

-- name: BillUsagePeriods :execrows
-- For callers that hold the rows' locks.
UPDATE usage_periods p SET status = 'billed', closing_until = NULL
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[]) AS g (tenant_id, item_id, period_start)
WHERE p.tenant_id = g.tenant_id AND p.item_id = g.item_id AND p.period_start = g.period_start
  AND p.status = ANY (@from_statuses::text[]);

-- name: DeleteMarks :exec
-- What the folds left on these usage periods is in their amounts now. For callers that hold the rows' locks.
DELETE FROM usage_period_marks
WHERE (tenant_id, item_id, period_start) IN (
    SELECT g.tenant_id, g.item_id, g.period_start
    FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[])
        AS g (tenant_id, item_id, period_start)
);

-- name: LockInvoiceSequences :exec
-- Tenants in order, as late as possible: who holds one keeps all other finalizers of the tenant waiting.
SELECT s.tenant_id FROM invoice_sequences s
WHERE s.tenant_id = ANY (@tenant_ids::uuid[]) AND s.kind = 'invoice'
ORDER BY s.tenant_id
FOR NO KEY UPDATE;

-- name: NumberInvoices :many
-- Draws the numbers of the whole batch and makes its drafts final, with seller and buyer as they are now. `numbers are
-- gapless` rests on this one statement: a rollback takes the numbers back with the invoices.
WITH given AS (
    SELECT g.tenant_id, g.id, g.status, g.versions, g.subtotal, g.discount, g.tax, g.total, g.to_credit_balance,
           g.credit_applied, g.at, g.due_at, row_number() OVER (PARTITION BY g.tenant_id ORDER BY g.place) AS place
    FROM unnest(
        @tenant_ids::uuid[], @ids::uuid[], @statuses::text[], @versions::integer[], @subtotals::bigint[],
        @discounts::bigint[], @taxes::bigint[], @totals::bigint[], @to_credit_balances::bigint[],
        @credits_applied::bigint[], @ats::timestamptz[], @due_ats::timestamptz[]
    ) WITH ORDINALITY AS g (
        tenant_id, id, status, versions, subtotal, discount, tax, total, to_credit_balance, credit_applied, at, due_at, place
    )
), drawn AS (
    UPDATE invoice_sequences
    SET last = invoice_sequences.last + wanted.count, last_at = greatest(wanted.at, invoice_sequences.last_at)
    FROM (SELECT given.tenant_id, count(*) AS count, max(given.at) AS at FROM given GROUP BY given.tenant_id) AS wanted
    WHERE invoice_sequences.tenant_id = wanted.tenant_id AND invoice_sequences.kind = 'invoice'
    RETURNING invoice_sequences.tenant_id, invoice_sequences.last - wanted.count AS before, invoice_sequences.last_at
)
UPDATE invoices
SET status = given.status, subtotal = given.subtotal, discount = given.discount, tax = given.tax, total = given.total,
    to_credit_balance = given.to_credit_balance, credit_applied = given.credit_applied,
    amount_due = given.total - given.credit_applied, parties = who.parties,
    number = 'INV-' || lpad((drawn.before + given.place)::text, greatest(6, length((drawn.before + given.place)::text)), '0'),
    finalized_at = drawn.last_at, due_at = greatest(given.due_at, drawn.last_at), blocked_reason = NULL, retry_at = NULL, version = invoices.version + given.versions
FROM given
JOIN drawn ON drawn.tenant_id = given.tenant_id
JOIN invoices i ON i.tenant_id = given.tenant_id AND i.id = given.id
JOIN invoice_parties who ON who.tenant_id = i.tenant_id AND who.customer_id = i.customer_id
WHERE invoices.tenant_id = given.tenant_id AND invoices.id = given.id AND invoices.status = 'draft'
RETURNING invoices.*;
