-- Usage path, step 2: records find their owner, in four statements: resolve, lock customers, lock periods, resolve again
-- and write. A record's owner is the metered item whose usage period covers its timestamp, of the subscription it names
-- or of its customer. What touches more than its own period takes more: revisions (usage_fold_revisions.sql), and the
-- deltas of a level, which are in every later period too.

-- name: ListUsageOwners :many
-- Which periods the unfolded records of these batches belong to, as far as can be seen without locks; no item for records
-- that no period covers. Each record asks by itself, by two probes: joined as sets, the planner's guesses (it cannot know
-- how many records a batch has) end in every record compared with every period. What is folded is sorted out after the
-- batches are read: else the index of all unfolded records of the house may be walked.
WITH reported AS MATERIALIZED (
    SELECT r.tenant_id, r.customer_id, r.meter_id, r.subscription_id, r.used_at, r.folded,
           r.root_key IS NOT NULL AS is_revision
    FROM unnest(@tenant_ids::uuid[], @batch_ids::uuid[]) AS b (tenant_id, batch_id)
    JOIN usage_records r ON r.tenant_id = b.tenant_id AND r.batch_id = b.batch_id
)
SELECT DISTINCT w.tenant_id, w.customer_id, o.item_id AS "item_id?", o.period_start AS "period_start?",
       (m.aggregation = 'weighted_sum')::boolean AS is_level, w.is_revision::boolean AS is_revision
FROM reported w
JOIN meters m ON m.tenant_id = w.tenant_id AND m.id = w.meter_id
LEFT JOIN LATERAL (
    SELECT p.item_id, p.period_start
    FROM subscription_items i
    CROSS JOIN LATERAL (
        -- An item's periods do not overlap, so only the last that begins by then can cover the instant.
        SELECT u.item_id, u.period_start, u.period_end
        FROM usage_periods u
        WHERE u.tenant_id = i.tenant_id AND u.item_id = i.id AND u.period_start <= w.used_at
        ORDER BY u.period_start DESC
        LIMIT 1
    ) AS p
    WHERE i.tenant_id = w.tenant_id AND i.customer_id = w.customer_id AND i.meter_id = w.meter_id
      AND (w.subscription_id = i.subscription_id OR (w.subscription_id IS NULL AND NOT i.subscription_required))
      AND p.period_end > w.used_at
    ORDER BY i.id
    LIMIT 1
) AS o ON true
WHERE NOT w.folded;

-- name: ListLaterPeriods :many
-- The usage periods of these items behind the given ones.
SELECT DISTINCT p.tenant_id, p.item_id, p.period_start
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[]) AS k (tenant_id, item_id, period_start)
JOIN usage_periods p
    ON p.tenant_id = k.tenant_id AND p.item_id = k.item_id AND p.period_start > k.period_start;

-- name: LockCustomersOfUnassigned :many
-- Before a record is written as unassigned: whoever makes, moves or ends coverage takes this row first. A taken row is
-- left out, and its records wait.
SELECT c.tenant_id, c.id
FROM customers c
JOIN unnest(@tenant_ids::uuid[], @customer_ids::uuid[]) AS k (tenant_id, id)
    ON c.tenant_id = k.tenant_id AND c.id = k.id
ORDER BY c.tenant_id, c.id
FOR SHARE OF c SKIP LOCKED;

-- name: LockUsagePeriodsForFold :many
-- Folds share a period and never wait for it: one that a finalizer holds, or has announced to take, is left out.
SELECT p.tenant_id, p.item_id, p.period_start
FROM usage_periods p
JOIN unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[]) AS k (tenant_id, item_id, period_start)
    ON p.tenant_id = k.tenant_id AND p.item_id = k.item_id AND p.period_start = k.period_start
WHERE p.closing_until IS NULL OR p.closing_until <= @now::timestamptz
ORDER BY p.tenant_id, p.item_id, p.period_start
FOR SHARE OF p SKIP LOCKED;

-- name: FoldUsageRecords :many
-- Resolves again under the locks and writes: owners, hour buckets, marks. Answers the batches that have records left:
-- their period is taken, or they are covered by a subscription whose period has no row yet, or their answer changed.
-- Revisions are left to FoldUsageRevisions.
WITH reported AS MATERIALIZED (
    SELECT r.tenant_id, r.idempotency_key, r.batch_id, r.customer_id, r.meter_id, r.subscription_id, r.used_at, r.folded,
           r.root_key, b.event_id, b.correlation_id
    FROM unnest(@tenant_ids::uuid[], @batch_ids::uuid[], @event_ids::uuid[], @correlation_ids::uuid[])
        AS b (tenant_id, batch_id, event_id, correlation_id)
    JOIN usage_records r ON r.tenant_id = b.tenant_id AND r.batch_id = b.batch_id
    ORDER BY r.tenant_id, r.idempotency_key
    FOR NO KEY UPDATE OF r
), resolved AS MATERIALIZED (
    SELECT w.tenant_id, w.idempotency_key, w.batch_id, w.event_id, w.correlation_id, o.subscription_id, o.item_id,
           o.period_start, o.status, m.aggregation, m.group_by, m.filters,
           CASE
               WHEN o.item_id IS NOT NULL THEN (w.tenant_id, o.item_id, o.period_start) IN (
                   SELECT k.tenant_id, k.item_id, k.period_start
                   FROM unnest(@held_tenant_ids::uuid[], @held_item_ids::uuid[], @held_period_starts::timestamptz[])
                       AS k (tenant_id, item_id, period_start)
               ) AND (m.aggregation <> 'weighted_sum' OR NOT EXISTS (
                   SELECT FROM usage_periods l
                   WHERE l.tenant_id = w.tenant_id AND l.item_id = o.item_id AND l.period_start > o.period_start
                     AND (l.tenant_id, l.item_id, l.period_start) NOT IN (
                         SELECT k.tenant_id, k.item_id, k.period_start
                         FROM unnest(@held_tenant_ids::uuid[], @held_item_ids::uuid[], @held_period_starts::timestamptz[])
                             AS k (tenant_id, item_id, period_start)
                     )
               ))
               ELSE (w.tenant_id, w.customer_id) IN (
                   SELECT c.tenant_id, c.id
                   FROM unnest(@held_customer_tenant_ids::uuid[], @held_customer_ids::uuid[]) AS c (tenant_id, id)
               ) AND NOT EXISTS (
                   SELECT FROM subscription_items i
                   JOIN subscriptions s ON s.tenant_id = i.tenant_id AND s.id = i.subscription_id
                   WHERE i.tenant_id = w.tenant_id AND i.customer_id = w.customer_id AND i.meter_id = w.meter_id
                     AND (s.id = w.subscription_id OR (w.subscription_id IS NULL AND NOT i.subscription_required))
                     AND s.start_at <= w.used_at AND (s.canceled_at IS NULL OR w.used_at < s.canceled_at)
                     AND (i.started_at IS NULL OR i.started_at <= w.used_at)
                     AND (i.ended_at IS NULL OR w.used_at < i.ended_at)
               )
           END AS is_ready
    FROM reported w
    JOIN meters m ON m.tenant_id = w.tenant_id AND m.id = w.meter_id
    LEFT JOIN LATERAL (
        SELECT i.subscription_id, p.item_id, p.period_start, p.status
        FROM subscription_items i
        CROSS JOIN LATERAL (
            SELECT u.item_id, u.period_start, u.period_end, u.status
            FROM usage_periods u
            WHERE u.tenant_id = i.tenant_id AND u.item_id = i.id AND u.period_start <= w.used_at
            ORDER BY u.period_start DESC
            LIMIT 1
        ) AS p
        WHERE i.tenant_id = w.tenant_id AND i.customer_id = w.customer_id AND i.meter_id = w.meter_id
          AND (w.subscription_id = i.subscription_id OR (w.subscription_id IS NULL AND NOT i.subscription_required))
          AND p.period_end > w.used_at
        ORDER BY i.id
        LIMIT 1
    ) AS o ON true
    WHERE NOT w.folded AND w.root_key IS NULL
), folded AS (
    UPDATE usage_records
    SET folded = true, item_id = r.item_id, period_start = r.period_start
    FROM resolved r
    WHERE r.is_ready AND usage_records.tenant_id = r.tenant_id
      AND usage_records.idempotency_key = r.idempotency_key AND NOT usage_records.folded
    RETURNING usage_records.tenant_id, usage_records.item_id, usage_records.period_start, usage_records.used_at,
              usage_records.quantity, r.subscription_id, r.status, r.event_id, r.correlation_id,
              r.aggregation = 'weighted_sum' AS is_level,
              CASE WHEN r.group_by = '{}' THEN '' ELSE usage_group_key(r.group_by, usage_records.properties) END
                  AS group_key,
              r.filters = '[]' OR usage_passes(r.filters, usage_records.properties) AS is_counted
), bucketed AS (
    -- Only what this statement has just given an owner, as counted_usage has it; sorted, since folds of other partitions
    -- add to the same hours. A bucket without records has no maximum.
    INSERT INTO usage_buckets (tenant_id, item_id, period_start, hour, group_key, records, quantity_sum, quantity_max)
    SELECT f.tenant_id, f.item_id, f.period_start, date_trunc('hour', f.used_at, 'UTC'), f.group_key, count(*),
           sum(f.quantity), max(f.quantity)
    FROM folded f
    WHERE f.item_id IS NOT NULL AND f.is_counted
    GROUP BY f.tenant_id, f.item_id, f.period_start, date_trunc('hour', f.used_at, 'UTC'), f.group_key
    ORDER BY f.tenant_id, f.item_id, f.period_start, date_trunc('hour', f.used_at, 'UTC'), f.group_key
    ON CONFLICT (tenant_id, item_id, period_start, hour, group_key) DO UPDATE
    SET records = usage_buckets.records + excluded.records,
        quantity_sum = usage_buckets.quantity_sum + excluded.quantity_sum,
        quantity_max = CASE WHEN usage_buckets.records = 0 THEN excluded.quantity_max
            ELSE greatest(usage_buckets.quantity_max, excluded.quantity_max) END
), marked AS (
    -- The status cannot move while the period is held: so a record is read by a finalization, or marked after it.
    INSERT INTO usage_period_marks (tenant_id, item_id, period_start, subscription_id, kind, event_id, correlation_id)
    SELECT t.tenant_id, t.item_id, t.period_start, t.subscription_id,
           CASE t.status WHEN 'billed' THEN 'adjust' ELSE 'due' END, t.event_id, t.correlation_id
    FROM (
        SELECT f.tenant_id, f.item_id, f.period_start, f.subscription_id, f.status, f.event_id, f.correlation_id
        FROM folded f
        WHERE f.item_id IS NOT NULL
        UNION
        SELECT l.tenant_id, l.item_id, l.period_start, l.subscription_id, l.status, f.event_id, f.correlation_id
        FROM folded f
        CROSS JOIN LATERAL (
            SELECT p.* FROM usage_periods p
            WHERE p.tenant_id = f.tenant_id AND p.item_id = f.item_id AND p.period_start > f.period_start
            LIMIT 100000
        ) AS l
        WHERE f.is_level
    ) AS t
    ORDER BY t.tenant_id, t.item_id, t.period_start
)
SELECT DISTINCT r.tenant_id::uuid AS tenant_id, r.batch_id::uuid AS batch_id FROM resolved r WHERE NOT r.is_ready;
