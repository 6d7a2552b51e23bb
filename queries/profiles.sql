-- How a tenant appears, and who is who on an invoice.

-- name: GetTenantProfile :one
SELECT * FROM tenant_profiles WHERE tenant_id = @tenant_id;

-- name: MakeTenantProfile :exec
INSERT INTO tenant_profiles (tenant_id, updated_at) VALUES (@tenant_id, @now) ON CONFLICT DO NOTHING;

-- name: LockTenantProfile :one
SELECT * FROM tenant_profiles WHERE tenant_id = @tenant_id FOR NO KEY UPDATE;

-- name: UpdateTenantProfile :one
-- For callers that hold the row's lock.
UPDATE tenant_profiles
SET legal_name = @legal_name, address = @address, tax_number = @tax_number, email = @email, website = @website,
    accent_color = @accent_color, payment_instructions = @payment_instructions, footer = @footer,
    payment_terms_days = sqlc.narg(payment_terms_days), updated_at = @now, version = version + 1
WHERE tenant_id = @tenant_id
RETURNING *;

-- name: GetInvoiceParties :one
SELECT parties FROM invoice_parties WHERE tenant_id = @tenant_id AND customer_id = @customer_id;
