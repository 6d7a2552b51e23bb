-- The catalog: meters, plans, prices. Nothing here is updated.

-- name: InsertMeter :one
-- No row when the key is taken.
INSERT INTO meters (tenant_id, id, key, display_name, aggregation, created_at)
VALUES (@tenant_id, @id, @key, @display_name, @aggregation, @now)
ON CONFLICT (tenant_id, key) DO NOTHING
RETURNING *;

-- name: GetMeter :one
SELECT * FROM meters WHERE tenant_id = @tenant_id AND id = @id;

-- name: GetMeterByKey :one
SELECT * FROM meters WHERE tenant_id = @tenant_id AND key = @key;

-- name: InsertPlan :one
-- No row when the key is taken.
INSERT INTO plans (tenant_id, id, key, display_name, currency, billing_interval, created_at)
VALUES (@tenant_id, @id, @key, @display_name, @currency, @billing_interval, @now)
ON CONFLICT (tenant_id, key) DO NOTHING
RETURNING *;

-- name: GetPlan :one
SELECT * FROM plans WHERE tenant_id = @tenant_id AND id = @id;

-- name: GetPlanByKey :one
SELECT * FROM plans WHERE tenant_id = @tenant_id AND key = @key;

-- name: InsertPrice :one
INSERT INTO prices (
    tenant_id, id, plan_id, meter_id, display_name, currency, model, config, billing_timing, created_at)
VALUES (
    @tenant_id, @id, @plan_id, sqlc.narg(meter_id), @display_name, @currency, @model, @config, @billing_timing, @now)
RETURNING *;

-- name: ListPrices :many
SELECT * FROM prices WHERE tenant_id = @tenant_id AND plan_id = @plan_id ORDER BY id;
