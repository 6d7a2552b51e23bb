-- The migrations that a database has.

-- name: LockMigrations :exec
-- One migrator at a time, until the end of its transaction.
SELECT pg_advisory_xact_lock(7236000);

-- name: ListMigrations :many
SELECT version, name, checksum FROM schema_migrations ORDER BY version;

-- name: InsertMigration :exec
INSERT INTO schema_migrations (version, name, checksum) VALUES (@version, @name, @checksum);
