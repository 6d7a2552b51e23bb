-- Invoice path, step 6: when open invoices are due, and that it is told once.

-- name: ListPaymentTerms :many
-- How many days customers have to pay, theirs or their tenant's; null where neither says so.
SELECT c.tenant_id, c.id, c.time_zone, coalesce(c.payment_terms_days, p.payment_terms_days) AS days
FROM customers c
LEFT JOIN tenant_profiles p ON p.tenant_id = c.tenant_id
WHERE (c.tenant_id, c.id) IN (
    SELECT g.tenant_id, g.id FROM unnest(@tenant_ids::uuid[], @customer_ids::uuid[]) AS g (tenant_id, id)
);

-- name: TakeDueInvoices :many
-- Open invoices whose time to pay has come, of tenants that live in machine time; each is taken once, with the version
-- of its event. Who holds one is about to settle or void it, so it is passed over.
WITH due AS (
    SELECT i.tenant_id, i.id
    FROM invoices i
    WHERE i.status = 'open' AND i.due_told_at IS NULL AND i.due_at <= @now::timestamptz
      AND NOT EXISTS (SELECT FROM test_clocks c WHERE c.tenant_id = i.tenant_id)
    ORDER BY i.due_at, i.tenant_id, i.id
    LIMIT @batch_max
    FOR NO KEY UPDATE OF i SKIP LOCKED
)
UPDATE invoices SET due_told_at = @now::timestamptz, version = invoices.version + 1
FROM due
WHERE invoices.tenant_id = due.tenant_id AND invoices.id = due.id
RETURNING invoices.*;

-- name: TakeDueInvoicesOnTestClocks :many
-- The same of tenants with a test clock, of one of them if @tenant_id is given.
WITH due AS (
    SELECT i.tenant_id, i.id, c.business_time
    FROM test_clocks c
    JOIN invoices i ON i.tenant_id = c.tenant_id AND i.due_at <= c.business_time AND i.status = 'open'
        AND i.due_told_at IS NULL
    WHERE sqlc.narg(tenant_id)::uuid IS NULL OR c.tenant_id = sqlc.narg(tenant_id)::uuid
    ORDER BY i.due_at, i.tenant_id, i.id
    LIMIT @batch_max
    FOR NO KEY UPDATE OF i SKIP LOCKED
)
UPDATE invoices SET due_told_at = due.business_time, version = invoices.version + 1
FROM due
WHERE invoices.tenant_id = due.tenant_id AND invoices.id = due.id
RETURNING invoices.*;
