-- Who did what. Insert-only.

-- name: InsertAuditEntry :exec
INSERT INTO audit_log (tenant_id, id, actor, method, resource, correlation_id, note, created_at)
VALUES (@tenant_id, @id, @actor, @method, @resource, @correlation_id, @note, @now);
