-- Customers.

-- name: InsertCustomer :one
-- No row when the external id is taken.
INSERT INTO customers (tenant_id, id, external_id, display_name, time_zone, created_at)
VALUES (@tenant_id, @id, sqlc.narg(external_id), @display_name, @time_zone, @now)
ON CONFLICT (tenant_id, external_id) DO NOTHING
RETURNING *;

-- name: GetCustomer :one
SELECT * FROM customers WHERE tenant_id = @tenant_id AND id = @id;

-- name: GetCustomerByExternalId :one
SELECT * FROM customers WHERE tenant_id = @tenant_id AND external_id = @external_id::text;
