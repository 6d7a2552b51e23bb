-- API keys, looked up by the hash of their secret.

-- name: FindApiKey :one
SELECT id, tenant_id, scopes, expires_at FROM api_keys
WHERE secret_hash = @secret_hash AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > @now);

-- name: InsertApiKey :one
INSERT INTO api_keys (id, tenant_id, secret_hash, display_name, scopes, created_at, expires_at)
VALUES (@id, sqlc.narg(tenant_id), @secret_hash, @display_name, @scopes, @now, sqlc.narg(expires_at))
RETURNING *;

-- name: RevokeApiKey :one
-- No row when there is no such key, or it is revoked already.
UPDATE api_keys SET revoked_at = @now, version = version + 1
WHERE tenant_id = @tenant_id::uuid AND id = @id AND revoked_at IS NULL
RETURNING *;

-- name: GetApiKey :one
SELECT * FROM api_keys WHERE tenant_id = @tenant_id::uuid AND id = @id;

-- name: ListApiKeys :many
SELECT * FROM api_keys
WHERE tenant_id = @tenant_id::uuid AND (sqlc.narg(before)::uuid IS NULL OR id < sqlc.narg(before)::uuid)
ORDER BY id DESC LIMIT @limit_;
