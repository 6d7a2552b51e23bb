-- Usage path, beside it: do the hour buckets say what the records say? Slice by slice, so that looking costs little.

-- name: TakeWalk :one
-- How far the round has come; no row while another process takes its slice.
SELECT * FROM bucket_walk WHERE id FOR NO KEY UPDATE SKIP LOCKED;

-- name: GetWalkEnd :one
SELECT finished_at FROM bucket_walk WHERE id;

-- name: WalkUsagePeriods :many
-- The next usage periods behind a key, with how many records their buckets hold.
SELECT p.tenant_id, p.item_id, p.period_start, p.meter_id, b.records
FROM (
    SELECT u.tenant_id, u.item_id, u.period_start, u.meter_id
    FROM usage_periods u
    WHERE (u.tenant_id, u.item_id, u.period_start)
        > (@after_tenant_id::uuid, @after_item_id::uuid, @after_period_start::timestamptz)
    ORDER BY u.tenant_id, u.item_id, u.period_start
    LIMIT @periods_max
) AS p
CROSS JOIN LATERAL (
    SELECT coalesce(sum(c.records), 0)::bigint AS records FROM usage_buckets c
    WHERE c.tenant_id = p.tenant_id AND c.item_id = p.item_id AND c.period_start = p.period_start
) AS b
ORDER BY p.tenant_id, p.item_id, p.period_start;

-- name: ListDifferences :many
-- Of these usage periods those whose hour buckets say another thing than the effective records do, or are missing, or have
-- no record, and how many. One statement, so one snapshot: a fold writes both in one transaction.
WITH keys AS (
    SELECT k.tenant_id, k.item_id, k.period_start, k.meter_id
    FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[], @meter_ids::uuid[])
        AS k (tenant_id, item_id, period_start, meter_id)
), recorded AS (
    SELECT c.tenant_id, c.item_id, c.period_start, date_trunc('hour', c.used_at, 'UTC') AS hour, c.group_key,
           count(*) AS records, sum(c.quantity) AS quantity_sum, max(c.quantity) AS quantity_max
    FROM keys k
    JOIN counted_usage c
        ON c.tenant_id = k.tenant_id AND c.item_id = k.item_id AND c.period_start = k.period_start
        AND c.meter_id = k.meter_id
    GROUP BY c.tenant_id, c.item_id, c.period_start, date_trunc('hour', c.used_at, 'UTC'), c.group_key
), bucketed AS (
    -- A bucket that was recomputed to nothing agrees with no record at all.
    SELECT b.tenant_id, b.item_id, b.period_start, b.hour, b.group_key, b.records, b.quantity_sum, b.quantity_max
    FROM keys k
    JOIN usage_buckets b
        ON b.tenant_id = k.tenant_id AND b.item_id = k.item_id AND b.period_start = k.period_start
    WHERE b.records > 0
)
SELECT coalesce(recorded.tenant_id, bucketed.tenant_id)::uuid AS "tenant_id!",
       coalesce(recorded.item_id, bucketed.item_id)::uuid AS "item_id!",
       coalesce(recorded.period_start, bucketed.period_start)::timestamptz AS "period_start!", count(*) AS buckets
FROM recorded
FULL JOIN bucketed
    ON bucketed.tenant_id = recorded.tenant_id AND bucketed.item_id = recorded.item_id
    AND bucketed.period_start = recorded.period_start AND bucketed.hour = recorded.hour
    AND bucketed.group_key = recorded.group_key
WHERE (bucketed.records, bucketed.quantity_sum, bucketed.quantity_max)
    IS DISTINCT FROM (recorded.records, recorded.quantity_sum, recorded.quantity_max)
GROUP BY 1, 2, 3;

-- name: ForgetDifferences :exec
-- What was found of these usage periods before.
DELETE FROM bucket_differences d
USING unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[]) AS k (tenant_id, item_id, period_start)
WHERE d.tenant_id = k.tenant_id AND d.item_id = k.item_id AND d.period_start = k.period_start;

-- name: NoteDifferences :exec
INSERT INTO bucket_differences (tenant_id, item_id, period_start, buckets, found_at)
SELECT k.tenant_id, k.item_id, k.period_start, k.buckets, @now::timestamptz
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[], @buckets::bigint[])
    AS k (tenant_id, item_id, period_start, buckets)
ORDER BY k.tenant_id, k.item_id, k.period_start;

-- name: MoveWalk :exec
-- For callers that hold the row: the next slice begins behind this key; a round that came to its end begins anew.
UPDATE bucket_walk
SET tenant_id = @tenant_id, item_id = @item_id, period_start = @period_start,
    finished_at = coalesce(sqlc.narg(finished_at)::timestamptz, bucket_walk.finished_at)
WHERE id;

-- name: SumDifferences :one
-- How many hour buckets were found to differ, of the tenant under its role, of all for a worker.
SELECT coalesce(sum(buckets), 0)::bigint AS buckets FROM bucket_differences;
