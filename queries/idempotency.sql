-- Answers kept for retries.

-- name: InsertRequest :execrows
-- One row the first time; a concurrent twin waits for the first.
INSERT INTO idempotent_requests (tenant_id, principal, method, request_id, body_hash, created_at)
VALUES (@tenant_id, @principal, @method, @request_id, @body_hash, @now)
ON CONFLICT DO NOTHING;

-- name: StoreAnswer :exec
UPDATE idempotent_requests SET answer = @answer, encrypted = @encrypted
WHERE tenant_id = @tenant_id AND principal = @principal AND method = @method AND request_id = @request_id;

-- name: GetRequest :one
SELECT body_hash, answer, encrypted FROM idempotent_requests
WHERE tenant_id = @tenant_id AND principal = @principal AND method = @method AND request_id = @request_id;
