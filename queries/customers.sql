-- Customers.

-- name: InsertCustomer :one
-- No row when the external id is taken.
INSERT INTO customers (
    tenant_id, id, external_id, display_name, time_zone, email, address, tax_number, tax_percent,
    payment_terms_days, created_at)
VALUES (
    @tenant_id, @id, sqlc.narg(external_id), @display_name, @time_zone, @email, @address, @tax_number,
    sqlc.narg(tax_percent), sqlc.narg(payment_terms_days), @now)
ON CONFLICT (tenant_id, external_id) DO NOTHING
RETURNING *;

-- name: GetCustomer :one
SELECT * FROM customers WHERE tenant_id = @tenant_id AND id = @id;

-- name: GetCustomerByExternalId :one
SELECT * FROM customers WHERE tenant_id = @tenant_id AND external_id = @external_id::text;

-- name: AdvanceCustomerVersion :one
-- Locks the customer and draws the version of an event. No row when there is no such customer.
UPDATE customers SET version = version + 1 WHERE tenant_id = @tenant_id AND id = @id RETURNING *;

-- name: UpdateCustomer :one
-- For callers that hold the row's lock.
UPDATE customers
SET display_name = @display_name, email = @email, address = @address, tax_number = @tax_number,
    tax_percent = sqlc.narg(tax_percent), payment_terms_days = sqlc.narg(payment_terms_days)
WHERE tenant_id = @tenant_id AND id = @id
RETURNING *;

-- name: ListCustomers :many
-- Newest first, those made before @before.
SELECT * FROM customers
WHERE tenant_id = @tenant_id AND (sqlc.narg(before)::uuid IS NULL OR id < sqlc.narg(before)::uuid)
ORDER BY id DESC
LIMIT @page_max;
