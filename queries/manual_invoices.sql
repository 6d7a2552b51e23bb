-- Invoice path, beside its steps: invoices that people make.

-- name: InsertManualInvoice :one
INSERT INTO invoices (
    tenant_id, id, customer_id, kind, boundary, currency, closed_at, finalize_at, correlation_id, memo, created_at)
VALUES (
    @tenant_id, @id, @customer_id, 'manual', @at::timestamptz, @currency, @at::timestamptz, sqlc.narg(finalize_at),
    @correlation_id, @memo, @at::timestamptz)
RETURNING *;

-- name: LockManualInvoice :one
SELECT * FROM invoices WHERE tenant_id = @tenant_id AND id = @id FOR NO KEY UPDATE;
