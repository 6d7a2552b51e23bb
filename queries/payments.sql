-- Invoice path, step 6: what is paid, and what it leaves due.

-- name: LockInvoiceToSettle :one
SELECT * FROM invoices WHERE tenant_id = @tenant_id AND id = @id FOR NO KEY UPDATE;

-- name: InsertPayment :one
-- No row when the reference is taken. A concurrent twin waits for the first.
INSERT INTO payments (
    tenant_id, id, invoice_id, customer_id, external_reference, amount, applied, currency, paid_at, created_at)
VALUES (
    @tenant_id, @id, @invoice_id, @customer_id, @external_reference, @amount, @applied, @currency, @paid_at, @created_at)
ON CONFLICT (tenant_id, external_reference) DO NOTHING
RETURNING *;

-- name: GetPaymentByReference :one
SELECT * FROM payments WHERE tenant_id = @tenant_id AND external_reference = @external_reference;

-- name: ListPayments :many
-- Newest first, those recorded before @before.
SELECT * FROM payments
WHERE tenant_id = @tenant_id
  AND (sqlc.narg(before)::uuid IS NULL OR id < sqlc.narg(before)::uuid)
  AND (sqlc.narg(invoice_id)::uuid IS NULL OR invoice_id = sqlc.narg(invoice_id)::uuid)
  AND (sqlc.narg(customer_id)::uuid IS NULL OR customer_id = sqlc.narg(customer_id)::uuid)
ORDER BY id DESC
LIMIT @page_max;

-- name: SettleInvoice :one
-- What is paid, credited and due now. For callers that hold the invoice's lock and know its status.
UPDATE invoices
SET amount_paid = @amount_paid, amount_credited = @amount_credited, amount_due = @amount_due, status = @new_status,
    version = version + @events::integer
WHERE tenant_id = @tenant_id AND id = @id AND status = @old_status
RETURNING *;
