-- Statements that `sqlc vet` refuses, one for each rule, and what it must let through.

-- name: DeleteAll :exec
DELETE FROM invoice_lines;

-- name: UpdateAll :exec
UPDATE invoice_lines AS l SET amount = 0;

-- name: LockAll :many
SELECT id FROM invoices WHERE status = 'draft' FOR UPDATE SKIP LOCKED;

-- name: SkipPages :many
SELECT id FROM invoices ORDER BY id LIMIT @page_max OFFSET @skipped;

-- name: Empty :exec
TRUNCATE invoice_lines;

-- name: Upsert :exec
INSERT INTO invoice_lines (tenant_id, invoice_id, number, amount)
VALUES (@tenant_id, @invoice_id, @number, @amount)
ON CONFLICT (tenant_id, invoice_id, number) DO UPDATE SET amount = excluded.amount;

-- name: LockWithoutKey :many
SELECT id FROM invoices WHERE status = 'draft' FOR NO KEY UPDATE SKIP LOCKED;

-- name: LockOnPurpose :many
-- @sqlc-vet-disable lock-without-key
SELECT id FROM invoices WHERE status = 'draft' FOR UPDATE;
