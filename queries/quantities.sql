-- Usage and invoice paths: what usage periods hold, from the records (for money) or from the buckets (for looking). The
-- views say what counts: `effective_usage_records` which records, `counted_usage` in which group. Who asks names the
-- meter: else a period is compared with every meter of the tenant, before its records are looked for.

-- name: ListPeriodMeters :many
-- What the meters of these usage periods count, and in how many groups by their buckets, as far as @groups_limit:
-- so that nobody reads what is too much to bill.
SELECT p.tenant_id, p.item_id, p.period_start, m.aggregation, m.group_by,
       (CASE WHEN m.group_by = '{}' THEN 1 ELSE (
           SELECT count(*) FROM (
               SELECT DISTINCT b.group_key FROM usage_buckets b
               WHERE b.tenant_id = p.tenant_id AND b.item_id = p.item_id AND b.period_start = p.period_start
                 AND b.records > 0
               LIMIT @groups_limit
           ) AS g
       ) END)::bigint AS group_count
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[]) AS k (tenant_id, item_id, period_start)
JOIN usage_periods p
    ON p.tenant_id = k.tenant_id AND p.item_id = k.item_id AND p.period_start = k.period_start
JOIN meters m ON m.tenant_id = p.tenant_id AND m.id = p.meter_id;

-- name: ListTotalsFromRecords :many
-- Count, sum and max for meters that do not group, one row per usage period that has records. Each period asks by itself:
-- joined as sets, the records of all would be sorted by a group that there is not.
SELECT k.tenant_id::uuid AS tenant_id, k.item_id::uuid AS item_id, k.period_start::timestamptz AS period_start, e.records,
       e.total, e.highest
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[], @meter_ids::uuid[])
    AS k (tenant_id, item_id, period_start, meter_id)
CROSS JOIN LATERAL (
    SELECT count(*) AS records, coalesce(sum(c.quantity), 0)::numeric AS total, coalesce(max(c.quantity), 0)::numeric AS highest
    FROM counted_usage c
    WHERE c.tenant_id = k.tenant_id AND c.item_id = k.item_id AND c.period_start = k.period_start
      AND c.meter_id = k.meter_id
) AS e
WHERE e.records > 0;

-- name: ListSumsFromRecords :many
-- The same for meters that group, one row per usage period and group that has records.
SELECT k.tenant_id::uuid AS tenant_id, k.item_id::uuid AS item_id, k.period_start::timestamptz AS period_start,
       c.group_key::text AS group_key, count(*) AS records, sum(c.quantity)::numeric AS total,
       max(c.quantity)::numeric AS highest
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[], @meter_ids::uuid[])
    AS k (tenant_id, item_id, period_start, meter_id)
JOIN counted_usage c
    ON c.tenant_id = k.tenant_id AND c.item_id = k.item_id AND c.period_start = k.period_start AND c.meter_id = k.meter_id
GROUP BY k.tenant_id, k.item_id, k.period_start, c.group_key;

-- name: ListUniquesFromRecords :many
-- How many distinct values the meter's property has; a record without it counts nobody.
SELECT k.tenant_id::uuid AS tenant_id, k.item_id::uuid AS item_id, k.period_start::timestamptz AS period_start,
       c.group_key::text AS group_key, count(*) AS records, count(DISTINCT c.unique_value) AS uniques
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[], @meter_ids::uuid[])
    AS k (tenant_id, item_id, period_start, meter_id)
JOIN counted_usage c
    ON c.tenant_id = k.tenant_id AND c.item_id = k.item_id AND c.period_start = k.period_start AND c.meter_id = k.meter_id
GROUP BY k.tenant_id, k.item_id, k.period_start, c.group_key;

-- name: ListLatestFromRecords :many
-- The last value in time; of two at one instant that with the greater key.
SELECT DISTINCT ON (k.tenant_id, k.item_id, k.period_start, c.group_key)
       k.tenant_id::uuid AS tenant_id, k.item_id::uuid AS item_id, k.period_start::timestamptz AS period_start,
       c.group_key::text AS group_key, c.quantity::numeric AS quantity
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[], @meter_ids::uuid[])
    AS k (tenant_id, item_id, period_start, meter_id)
JOIN counted_usage c
    ON c.tenant_id = k.tenant_id AND c.item_id = k.item_id AND c.period_start = k.period_start AND c.meter_id = k.meter_id
ORDER BY k.tenant_id, k.item_id, k.period_start, c.group_key, c.used_at DESC, c.root_key COLLATE "C" DESC;

-- name: ListLevelsFromRecords :many
-- For the weighted sum: the level at the start, that is the sum of all earlier deltas of the item, and the area under the
-- level, in units x seconds, exactly. A group whose level is zero throughout has no row.
SELECT q.tenant_id, q.item_id, q.period_start, q.group_key, q.records,
       (q.opening * extract(epoch FROM q.period_end - q.period_start) + q.moved)::numeric AS area
FROM (
    SELECT k.tenant_id::uuid AS tenant_id, k.item_id::uuid AS item_id, k.period_start::timestamptz AS period_start,
           p.period_end, c.group_key::text AS group_key,
           count(*) FILTER (WHERE c.period_start = k.period_start) AS records,
           coalesce(sum(c.quantity) FILTER (WHERE c.period_start < k.period_start), 0) AS opening,
           coalesce(sum(c.quantity * extract(epoch FROM p.period_end - c.used_at))
               FILTER (WHERE c.period_start = k.period_start), 0) AS moved
    FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[])
        AS k (tenant_id, item_id, period_start)
    JOIN usage_periods p
        ON p.tenant_id = k.tenant_id AND p.item_id = k.item_id AND p.period_start = k.period_start
    JOIN counted_usage c
        ON c.tenant_id = k.tenant_id AND c.item_id = k.item_id AND c.period_start <= k.period_start
        AND c.meter_id = p.meter_id
    GROUP BY k.tenant_id, k.item_id, k.period_start, p.period_end, c.group_key
) AS q
WHERE q.records > 0 OR q.opening <> 0;

-- name: ListAllowancesFromRecords :many
-- For percentages: events in time order, of which the first are free until their number or their amount is used up. Whose
-- amount crosses the free one is not free, and neither is one that comes when nothing is left.
SELECT q.tenant_id, q.item_id, q.period_start, q.group_key, count(*) AS records, sum(q.quantity)::numeric AS total,
       coalesce(least(
           sum(q.quantity) FILTER (WHERE q.free_events IS NULL OR q.place <= q.free_events), q.free_amount
       ), 0)::numeric AS free_amount,
       count(*) FILTER (
           WHERE (q.free_events IS NULL OR q.place <= q.free_events)
             AND (q.free_amount IS NULL OR (q.so_far <= q.free_amount AND q.so_far - q.quantity < q.free_amount))
       )::bigint AS free_events
FROM (
    SELECT k.tenant_id::uuid AS tenant_id, k.item_id::uuid AS item_id, k.period_start::timestamptz AS period_start,
           c.group_key::text AS group_key, c.quantity, k.free_events, k.free_amount::numeric AS free_amount,
           row_number() OVER events AS place, sum(c.quantity) OVER events AS so_far
    FROM unnest(
        @tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[], @meter_ids::uuid[],
        sqlc.narg(free_events)::bigint[], sqlc.narg(free_amounts)::text[]
    ) AS k (tenant_id, item_id, period_start, meter_id, free_events, free_amount)
    JOIN counted_usage c
        ON c.tenant_id = k.tenant_id AND c.item_id = k.item_id AND c.period_start = k.period_start
        AND c.meter_id = k.meter_id
    WINDOW events AS (
        PARTITION BY k.tenant_id, k.item_id, k.period_start, c.group_key
        ORDER BY c.used_at, c.root_key COLLATE "C" ROWS UNBOUNDED PRECEDING
    )
) AS q
GROUP BY q.tenant_id, q.item_id, q.period_start, q.group_key, q.free_amount;

-- name: ListSumsFromBuckets :many
-- The same as from the records, from the hour buckets; a period without buckets has no row.
SELECT b.tenant_id, b.item_id, b.period_start, b.group_key, sum(b.records)::bigint AS records,
       sum(b.quantity_sum)::numeric AS total, max(b.quantity_max)::numeric AS highest
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[]) AS k (tenant_id, item_id, period_start)
JOIN usage_buckets b
    ON b.tenant_id = k.tenant_id AND b.item_id = k.item_id AND b.period_start = k.period_start
WHERE b.records > 0
GROUP BY b.tenant_id, b.item_id, b.period_start, b.group_key;
