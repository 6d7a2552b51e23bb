-- Further revisions of usage records, and backfill jobs.

-- Why a revision was made, as its author says.
ALTER TABLE usage_records ADD COLUMN note text;

-- The records of an owner are read by hour too: when buckets are recomputed, and when usage is listed and summarized.
DROP INDEX usage_records_by_owner;
CREATE INDEX usage_records_by_owner ON usage_records (tenant_id, item_id, period_start, used_at) WHERE item_id IS NOT NULL;
