-- Invoice path, step 5: credit balances and their ledger. Lock order: invoice, credit balance, sequence.

-- name: MakeBalances :exec
-- The rows to lock, where a customer has none yet: what does not exist cannot be locked.
INSERT INTO credit_balances (tenant_id, customer_id, currency)
SELECT DISTINCT g.tenant_id, g.customer_id, g.currency
FROM unnest(@tenant_ids::uuid[], @customer_ids::uuid[], @currencies::text[]) AS g (tenant_id, customer_id, currency)
ORDER BY g.tenant_id, g.customer_id, g.currency
ON CONFLICT DO NOTHING;

-- name: LockBalances :many
-- Before the ledger is read: else two subscriptions of a customer spend it twice. Discounts are counted under it too.
SELECT b.*
FROM (
    SELECT DISTINCT g.tenant_id, g.customer_id, g.currency
    FROM unnest(@tenant_ids::uuid[], @customer_ids::uuid[], @currencies::text[]) AS g (tenant_id, customer_id, currency)
) AS g
JOIN credit_balances b ON b.tenant_id = g.tenant_id AND b.customer_id = g.customer_id AND b.currency = g.currency
ORDER BY b.tenant_id, b.customer_id, b.currency
FOR NO KEY UPDATE OF b;

-- name: AppendCredit :many
-- Entries in their order, each with the balance after it. For callers that hold the balances' locks.
WITH given AS (
    SELECT g.tenant_id, g.id, g.customer_id, g.currency, g.kind, g.amount, g.reason, g.invoice_id, g.at, g.place
    FROM unnest(
        @tenant_ids::uuid[], @ids::uuid[], @customer_ids::uuid[], @currencies::text[], @kinds::text[], @amounts::bigint[],
        @reasons::text[], sqlc.narg(invoice_ids)::uuid[], @ats::timestamptz[]
    ) WITH ORDINALITY AS g (tenant_id, id, customer_id, currency, kind, amount, reason, invoice_id, at, place)
), moved AS (
    UPDATE credit_balances
    SET balance = credit_balances.balance + summed.amount, entries = credit_balances.entries + summed.count
    FROM (
        SELECT given.tenant_id, given.customer_id, given.currency, sum(given.amount)::bigint AS amount, count(*) AS count
        FROM given GROUP BY given.tenant_id, given.customer_id, given.currency
    ) AS summed
    WHERE credit_balances.tenant_id = summed.tenant_id AND credit_balances.customer_id = summed.customer_id
      AND credit_balances.currency = summed.currency
    RETURNING credit_balances.tenant_id, credit_balances.customer_id, credit_balances.currency,
              credit_balances.balance - summed.amount AS balance, credit_balances.entries - summed.count AS entries
)
INSERT INTO credit_ledger (
    tenant_id, id, customer_id, currency, sequence, kind, amount, balance_after, reason, invoice_id, created_at)
SELECT given.tenant_id, given.id, given.customer_id, given.currency,
       moved.entries + row_number() OVER (
           PARTITION BY given.tenant_id, given.customer_id, given.currency ORDER BY given.place),
       given.kind, given.amount,
       moved.balance + (sum(given.amount) OVER (
           PARTITION BY given.tenant_id, given.customer_id, given.currency ORDER BY given.place))::bigint,
       given.reason, given.invoice_id, given.at
FROM given JOIN moved ON moved.tenant_id = given.tenant_id AND moved.customer_id = given.customer_id
    AND moved.currency = given.currency
ORDER BY given.place
RETURNING *;

-- name: ListCreditBalances :many
SELECT * FROM credit_balances WHERE tenant_id = @tenant_id AND customer_id = @customer_id ORDER BY currency;

-- name: ListCreditLedger :many
-- Newest first, those before the entry with the number @before.
SELECT * FROM credit_ledger
WHERE tenant_id = @tenant_id AND customer_id = @customer_id AND currency = @currency
  AND (sqlc.narg(before)::bigint IS NULL OR sequence < sqlc.narg(before)::bigint)
ORDER BY sequence DESC
LIMIT @page_max;
