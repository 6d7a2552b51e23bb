-- API keys, looked up by the hash of their secret.

-- name: FindApiKey :one
-- With what an operator has set of its tenant's limits, which every caller needs as often as the key.
SELECT k.id, k.tenant_id, k.scopes, k.expires_at,
       l.requests_per_second, l.records_per_second, l.streams, l.records_per_day, l.records_per_month
FROM api_keys k
LEFT JOIN tenant_limits l ON l.tenant_id = k.tenant_id
WHERE k.secret_hash = @secret_hash AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > @now);

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
