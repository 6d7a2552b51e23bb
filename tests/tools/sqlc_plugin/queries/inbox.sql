-- name: ConsumeOnce :one
-- One row the first time, none ever after.
INSERT INTO inbox (consumer, event_id) VALUES (@consumer, @event_id)
ON CONFLICT DO NOTHING
RETURNING true;

-- name: CopyUsage :copyfrom
INSERT INTO usage_records (at, id, quantity) VALUES (@at, @id, @quantity);

-- name: ListUsage :many
SELECT * FROM usage_records WHERE at >= @start AND at < @until ORDER BY at, id;

-- name: LockKey :exec
SELECT pg_advisory_xact_lock(@key::bigint);

-- name: Consumers :many
-- Parameters named like the locals and modules of the generated code.
SELECT consumer FROM inbox WHERE consumer = @row::text OR consumer = @rows::text
    OR consumer = @conn::text OR consumer = @typing::text;
