-- Usage path, step 1: backfill jobs, under which old usage is recorded.

-- name: InsertBackfill :one
-- No row when the name is taken.
INSERT INTO usage_backfills (tenant_id, id, name, note, created_at)
VALUES (@tenant_id, @id, @name, @note, @now)
ON CONFLICT (tenant_id, name) DO NOTHING
RETURNING *;

-- name: GetBackfill :one
SELECT * FROM usage_backfills WHERE tenant_id = @tenant_id AND id = @id;

-- name: GetBackfillByName :one
SELECT * FROM usage_backfills WHERE tenant_id = @tenant_id AND name = @name;

-- name: ShareBackfill :one
-- Held against its reverting while records come under it.
SELECT status FROM usage_backfills WHERE tenant_id = @tenant_id AND id = @id FOR SHARE;

-- name: LockBackfill :one
SELECT * FROM usage_backfills WHERE tenant_id = @tenant_id AND id = @id FOR NO KEY UPDATE;

-- name: AddBackfillBatch :exec
INSERT INTO usage_backfill_batches (tenant_id, backfill_id, batch_id, records)
VALUES (@tenant_id, @backfill_id, @batch_id, @records);

-- name: ListBackfills :many
-- Newest first, those before @before.
SELECT * FROM usage_backfills
WHERE tenant_id = @tenant_id AND (sqlc.narg(before)::uuid IS NULL OR id < sqlc.narg(before)::uuid)
ORDER BY id DESC
LIMIT @page_max;

-- name: CountBackfillRecords :many
SELECT b.backfill_id, sum(b.records)::bigint AS records
FROM usage_backfill_batches b
WHERE b.tenant_id = @tenant_id AND b.backfill_id = ANY (@backfill_ids::uuid[])
GROUP BY b.backfill_id;

-- name: ListBackfillRoots :many
-- Records of the job that count still, or will.
SELECT r.idempotency_key
FROM usage_backfill_batches b
JOIN usage_records r ON r.tenant_id = b.tenant_id AND r.batch_id = b.batch_id
WHERE b.tenant_id = @tenant_id AND b.backfill_id = @backfill_id AND r.root_key IS NULL
  AND NOT EXISTS (
      SELECT FROM usage_records later
      WHERE later.tenant_id = r.tenant_id AND later.root_key = r.idempotency_key AND later.voided
  )
LIMIT @most;

-- name: SetBackfillStatus :one
UPDATE usage_backfills
SET status = @status, reverted_at = CASE WHEN @status::text = 'reverted' THEN @now::timestamptz END
WHERE tenant_id = @tenant_id AND id = @id
RETURNING *;
