-- Limits of tenants that differ from the server's defaults, and what counts against their quotas.

-- name: GetTenantLimits :one
SELECT * FROM tenant_limits WHERE tenant_id = @tenant_id;

-- name: MakeTenantLimits :exec
INSERT INTO tenant_limits (tenant_id, version, updated_at) VALUES (@tenant_id, 0, @now) ON CONFLICT DO NOTHING;

-- name: LockTenantLimits :one
SELECT * FROM tenant_limits WHERE tenant_id = @tenant_id FOR NO KEY UPDATE;

-- name: UpdateTenantLimits :one
-- For callers that hold the row's lock.
UPDATE tenant_limits
SET requests_per_second = sqlc.narg(requests_per_second), records_per_second = sqlc.narg(records_per_second),
    streams = sqlc.narg(streams), records_per_day = sqlc.narg(records_per_day),
    records_per_month = sqlc.narg(records_per_month), updated_at = @now, version = version + 1
WHERE tenant_id = @tenant_id
RETURNING *;

-- name: AddRecordCounts :exec
-- Sorted, so that two processes never wait for each other in a circle.
INSERT INTO usage_record_counts (tenant_id, day, records)
SELECT tenant_id, day, records
FROM unnest(@tenant_ids::uuid[], @days::date[], @counts::bigint[]) AS added (tenant_id, day, records)
ORDER BY tenant_id, day
ON CONFLICT (tenant_id, day) DO UPDATE SET records = usage_record_counts.records + excluded.records;

-- name: ListRecordTotals :many
-- What each of these tenants had accepted on a day, and in its month up to it.
SELECT tenant_id,
       coalesce(sum(records) FILTER (WHERE day = @day::date), 0)::bigint AS of_day,
       sum(records)::bigint AS of_month
FROM usage_record_counts
WHERE tenant_id = ANY(@tenant_ids::uuid[]) AND day BETWEEN date_trunc('month', @day::date)::date AND @day::date
GROUP BY tenant_id;

-- name: DeleteOldRecordCounts :execrows
DELETE FROM usage_record_counts USING (
    SELECT c.tenant_id, c.day FROM usage_record_counts c
    WHERE c.day < @before::date
    ORDER BY c.day LIMIT @most::integer
    FOR NO KEY UPDATE SKIP LOCKED
) AS old
WHERE usage_record_counts.tenant_id = old.tenant_id AND usage_record_counts.day = old.day;
