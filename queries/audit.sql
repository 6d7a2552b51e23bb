-- Who did what. Insert-only.

-- name: InsertAuditEntry :exec
INSERT INTO audit_log (tenant_id, id, actor, method, resource, correlation_id, request_id, note, created_at)
VALUES (@tenant_id, @id, @actor, @method, @resource, @correlation_id, @request_id, @note, @now);

-- name: ListAuditEntries :many
-- Newest first. Ids are time, so the first and the last of them bound the range.
SELECT * FROM audit_log
WHERE (sqlc.narg(tenant_id)::uuid IS NULL OR tenant_id = sqlc.narg(tenant_id)::uuid)
  AND (sqlc.narg(actor)::text IS NULL OR actor = sqlc.narg(actor)::text)
  AND (sqlc.narg(resource)::text IS NULL OR resource = sqlc.narg(resource)::text)
  AND (sqlc.narg(method)::text IS NULL OR right(method, length(sqlc.narg(method)::text)) = sqlc.narg(method)::text)
  AND id >= @first_id AND id < @before_id
ORDER BY id DESC LIMIT @most;
