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
-- No row when there is no such key, or it is revoked already. Without a tenant it is an operator's, as below.
UPDATE api_keys SET revoked_at = @now, version = version + 1
WHERE id = @id AND revoked_at IS NULL
  AND (tenant_id = sqlc.narg(tenant_id)::uuid OR sqlc.narg(tenant_id)::uuid IS NULL AND tenant_id IS NULL)
RETURNING *;

-- name: EndApiKey :one
-- It works until then, if it would have worked for longer. No row when there is no such key, or it works no more.
UPDATE api_keys SET expires_at = least(expires_at, @end_at::timestamptz), version = version + 1
WHERE id = @id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > @now)
  AND (tenant_id = sqlc.narg(tenant_id)::uuid OR sqlc.narg(tenant_id)::uuid IS NULL AND tenant_id IS NULL)
RETURNING *;

-- name: GetApiKey :one
SELECT * FROM api_keys
WHERE id = @id
  AND (tenant_id = sqlc.narg(tenant_id)::uuid OR sqlc.narg(tenant_id)::uuid IS NULL AND tenant_id IS NULL);

-- name: ListApiKeys :many
SELECT * FROM api_keys
WHERE (tenant_id = sqlc.narg(tenant_id)::uuid OR sqlc.narg(tenant_id)::uuid IS NULL AND tenant_id IS NULL)
  AND (sqlc.narg(before)::uuid IS NULL OR id < sqlc.narg(before)::uuid)
ORDER BY id DESC LIMIT @limit_;

-- name: NoteKeysUsed :exec
-- Several processes note the same keys: in one order, and the later time stays.
WITH used AS (
    SELECT k.id, u.used_at
    FROM unnest(@ids::uuid[], @times::timestamptz[]) AS u (id, used_at) JOIN api_keys k ON k.id = u.id
    ORDER BY k.id FOR NO KEY UPDATE OF k
)
UPDATE api_keys k SET last_used_at = greatest(k.last_used_at, used.used_at) FROM used WHERE k.id = used.id;
