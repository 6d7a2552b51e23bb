-- Tenants.

-- name: InsertTenant :one
INSERT INTO tenants (id, display_name, mode, time_zone, created_at)
VALUES (@id, @display_name, @mode, @time_zone, @now)
RETURNING *;

-- name: InsertSequences :exec
-- Made with the tenant, so that finalizing never has to.
INSERT INTO invoice_sequences (tenant_id, kind) VALUES (@tenant_id, 'invoice'), (@tenant_id, 'credit_note');

-- name: GetTenant :one
SELECT * FROM tenants WHERE id = @id;
