-- Papers show days as they are where the customer is, and go on doing so when it moves.
CREATE OR REPLACE VIEW invoice_parties WITH (security_invoker) AS
SELECT c.tenant_id, c.id AS customer_id, jsonb_build_object(
    'seller', jsonb_build_object(
        'name', coalesce(nullif(p.legal_name, ''), t.display_name), 'address', coalesce(p.address, ''),
        'tax_number', coalesce(p.tax_number, ''), 'email', coalesce(p.email, ''), 'website', coalesce(p.website, ''),
        'accent_color', coalesce(p.accent_color, ''),
        'payment_instructions', coalesce(p.payment_instructions, ''), 'footer', coalesce(p.footer, '')),
    'buyer', jsonb_build_object(
        'name', c.display_name, 'address', c.address, 'tax_number', c.tax_number, 'email', c.email,
        'time_zone', c.time_zone)
) AS parties
FROM customers c
JOIN tenants t ON t.id = c.tenant_id
LEFT JOIN tenant_profiles p ON p.tenant_id = c.tenant_id;

-- An item that was taken back stays as a row, since a void invoice may have a line of it.
ALTER TABLE invoice_items ADD COLUMN removed_at timestamptz;
REVOKE DELETE ON invoice_items FROM tollway_api, tollway_worker;
