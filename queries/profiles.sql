-- How a tenant appears, and who is who on an invoice.

-- name: GetTenantProfile :one
SELECT * FROM tenant_profiles WHERE tenant_id = @tenant_id;

-- name: PutTenantProfile :one
INSERT INTO tenant_profiles (
    tenant_id, legal_name, address, tax_number, email, website, accent_color, payment_instructions, footer, updated_at)
VALUES (
    @tenant_id, @legal_name, @address, @tax_number, @email, @website, @accent_color, @payment_instructions, @footer, @now)
ON CONFLICT (tenant_id) DO UPDATE SET
    legal_name = excluded.legal_name, address = excluded.address, tax_number = excluded.tax_number,
    email = excluded.email, website = excluded.website, accent_color = excluded.accent_color,
    payment_instructions = excluded.payment_instructions, footer = excluded.footer, updated_at = excluded.updated_at,
    version = tenant_profiles.version + 1
RETURNING *;

-- name: GetInvoiceParties :one
SELECT parties FROM invoice_parties WHERE tenant_id = @tenant_id AND customer_id = @customer_id;
