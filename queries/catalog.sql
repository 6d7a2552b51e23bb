-- The catalog: meters, plans, prices. What a meter counts and what a price costs is never updated.

-- name: InsertMeter :one
-- No row when the key is taken.
INSERT INTO meters (
    tenant_id, id, key, display_name, aggregation, value_property, unique_property, filters, group_by, created_at)
VALUES (
    @tenant_id, @id, @key, @display_name, @aggregation, sqlc.narg(value_property), sqlc.narg(unique_property), @filters,
    @group_by::text[], @now)
ON CONFLICT (tenant_id, key) DO NOTHING
RETURNING *;

-- name: GetMeter :one
SELECT * FROM meters WHERE tenant_id = @tenant_id AND id = @id;

-- name: GetMeterByKey :one
SELECT * FROM meters WHERE tenant_id = @tenant_id AND key = @key;

-- name: ListMeters :many
-- Newest first, those made before @before.
SELECT * FROM meters
WHERE tenant_id = @tenant_id
  AND (sqlc.narg(before)::uuid IS NULL OR id < sqlc.narg(before)::uuid)
  AND (sqlc.narg(aggregation)::text IS NULL OR aggregation = sqlc.narg(aggregation)::text)
  AND (@include_archived::boolean OR archived_at IS NULL)
ORDER BY id DESC
LIMIT @page_max;

-- name: LockMeter :one
SELECT * FROM meters WHERE tenant_id = @tenant_id AND id = @id FOR NO KEY UPDATE;

-- name: UpdateMeter :one
-- For callers that hold the row's lock.
UPDATE meters SET display_name = @display_name, archived_at = sqlc.narg(archived_at), version = version + 1
WHERE tenant_id = @tenant_id AND id = @id
RETURNING *;

-- name: InsertPlan :one
-- No row when the key is taken.
INSERT INTO plans (
    tenant_id, id, key, display_name, currency, billing_interval, granularity, commitment, created_at)
VALUES (
    @tenant_id, @id, @key, @display_name, @currency, @billing_interval, @granularity, sqlc.narg(commitment), @now)
ON CONFLICT (tenant_id, key) DO NOTHING
RETURNING *;

-- name: GetPlan :one
SELECT * FROM plans WHERE tenant_id = @tenant_id AND id = @id;

-- name: GetPlanByKey :one
SELECT * FROM plans WHERE tenant_id = @tenant_id AND key = @key;

-- name: ListPlans :many
-- Newest first, those made before @before.
SELECT * FROM plans
WHERE tenant_id = @tenant_id
  AND (sqlc.narg(before)::uuid IS NULL OR id < sqlc.narg(before)::uuid)
  AND (sqlc.narg(currency)::text IS NULL OR currency = sqlc.narg(currency)::text)
  AND (@include_archived::boolean OR archived_at IS NULL)
ORDER BY id DESC
LIMIT @page_max;

-- name: LockPlan :one
SELECT * FROM plans WHERE tenant_id = @tenant_id AND id = @id FOR NO KEY UPDATE;

-- name: UpdatePlan :one
-- For callers that hold the row's lock.
UPDATE plans SET display_name = @display_name, archived_at = sqlc.narg(archived_at), version = version + 1
WHERE tenant_id = @tenant_id AND id = @id
RETURNING *;

-- name: FindPriceOfMeter :one
-- The plan's price of a meter, but for the one that is superseded.
SELECT id FROM prices
WHERE tenant_id = @tenant_id AND plan_id = @plan_id AND meter_id = @meter_id AND archived_at IS NULL
  AND id IS DISTINCT FROM sqlc.narg(superseded)::uuid
LIMIT 1;

-- name: HoldMeter :one
-- Nobody archives the meter until the price that takes it is committed.
SELECT archived_at FROM meters WHERE tenant_id = @tenant_id AND id = @id FOR SHARE;

-- name: InsertPrice :one
INSERT INTO prices (
    tenant_id, id, plan_id, meter_id, display_name, currency, model, config, billing_timing, tax_percent,
    bill_trial_usage, created_at)
VALUES (
    @tenant_id, @id, @plan_id, sqlc.narg(meter_id), @display_name, @currency, @model, @config, @billing_timing,
    sqlc.narg(tax_percent), @bill_trial_usage, @now)
RETURNING *;

-- name: GetPrice :one
SELECT * FROM prices WHERE tenant_id = @tenant_id AND id = @id;

-- name: ListPrices :many
-- Of one plan, oldest first, archived ones too.
SELECT * FROM prices WHERE tenant_id = @tenant_id AND plan_id = @plan_id ORDER BY id;

-- name: ListPricesOfPlans :many
-- The same of several plans.
SELECT * FROM prices WHERE tenant_id = @tenant_id AND plan_id = ANY (@plan_ids::uuid[]) ORDER BY plan_id, id;

-- name: PagePrices :many
-- Newest first, those made before @before.
SELECT * FROM prices
WHERE tenant_id = @tenant_id
  AND (sqlc.narg(before)::uuid IS NULL OR id < sqlc.narg(before)::uuid)
  AND (sqlc.narg(plan_id)::uuid IS NULL OR plan_id = sqlc.narg(plan_id)::uuid)
  AND (sqlc.narg(meter_id)::uuid IS NULL OR meter_id = sqlc.narg(meter_id)::uuid)
  AND (@include_archived::boolean OR archived_at IS NULL)
ORDER BY id DESC
LIMIT @page_max;

-- name: LockPrice :one
SELECT * FROM prices WHERE tenant_id = @tenant_id AND id = @id FOR NO KEY UPDATE;

-- name: ArchivePrice :one
-- For callers that hold the row's lock.
UPDATE prices SET archived_at = @now, superseded_by = sqlc.narg(superseded_by), version = version + 1
WHERE tenant_id = @tenant_id AND id = @id
RETURNING *;
