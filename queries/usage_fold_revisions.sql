-- Usage path, step 2, for revisions of records: the owner that counted before gives the record back, the new one gets it.
-- Revisions of a record are folded one after the other, so what was before is known, and does not change, when one is.
-- The large LIMITs bound nothing: they keep the planner from joining as sets, as said at ListUsageOwners.

-- name: LockUsageBatches :exec
-- Records before buckets, as in FoldUsageRecords.
SELECT r.idempotency_key
FROM unnest(@tenant_ids::uuid[], @batch_ids::uuid[]) AS b (tenant_id, batch_id)
JOIN usage_records r ON r.tenant_id = b.tenant_id AND r.batch_id = b.batch_id
ORDER BY r.tenant_id, r.idempotency_key
FOR NO KEY UPDATE OF r;

-- name: ListReadyRevisions :many
-- The unfolded revisions of these batches that have their turn, each with the period that it belongs to as far as can be
-- seen without locks: all before them are folded, so what they leave does not change any more.
WITH reported AS MATERIALIZED (
    SELECT r.tenant_id, r.idempotency_key, r.customer_id, r.meter_id, r.subscription_id, r.used_at, r.root_key, r.revision,
           r.folded
    FROM unnest(@tenant_ids::uuid[], @batch_ids::uuid[]) AS b (tenant_id, batch_id)
    JOIN usage_records r ON r.tenant_id = b.tenant_id AND r.batch_id = b.batch_id
)
SELECT w.tenant_id, w.idempotency_key, o.item_id AS "item_id?", o.period_start AS "period_start?"
FROM reported w
LEFT JOIN LATERAL (
    SELECT p.item_id, p.period_start
    FROM subscription_items i
    CROSS JOIN LATERAL (
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
WHERE NOT w.folded AND w.root_key IS NOT NULL
  AND NOT EXISTS (
      SELECT FROM usage_records root
      WHERE root.tenant_id = w.tenant_id AND root.idempotency_key = w.root_key AND NOT root.folded
  )
  AND NOT EXISTS (
      SELECT FROM usage_records later
      WHERE later.tenant_id = w.tenant_id AND later.root_key = w.root_key AND later.revision < w.revision
        AND NOT later.folded
  );

-- name: ListEarlierOwners :many
-- Which periods owned the records of these batches' unfolded revisions before. Each record asks by itself, as in
-- ListUsageOwners.
WITH reported AS MATERIALIZED (
    SELECT r.tenant_id, r.root_key, r.revision, r.folded
    FROM unnest(@tenant_ids::uuid[], @batch_ids::uuid[]) AS b (tenant_id, batch_id)
    JOIN usage_records r ON r.tenant_id = b.tenant_id AND r.batch_id = b.batch_id
)
SELECT DISTINCT e.tenant_id::uuid AS tenant_id, e.item_id::uuid AS item_id, e.period_start::timestamptz AS period_start,
       (m.aggregation = 'weighted_sum')::boolean AS is_level
FROM reported w
CROSS JOIN LATERAL (
    SELECT root.tenant_id, root.item_id, root.period_start, root.meter_id FROM usage_records root
    WHERE root.tenant_id = w.tenant_id AND root.idempotency_key = w.root_key
    UNION ALL
    SELECT later.tenant_id, later.item_id, later.period_start, later.meter_id FROM usage_records later
    WHERE later.tenant_id = w.tenant_id AND later.root_key = w.root_key AND later.revision < w.revision
    LIMIT 100000
) AS e
JOIN meters m ON m.tenant_id = e.tenant_id AND m.id = e.meter_id
WHERE NOT w.folded AND w.root_key IS NOT NULL AND e.item_id IS NOT NULL;

-- name: ListTouchedBuckets :many
-- The hour buckets that the unfolded records of these batches change: those that they come into, and, for revisions, those
-- that they leave. To be taken in one sorted go before anything is added, so that two folds never hold what the other
-- wants.
WITH reported AS MATERIALIZED (
    SELECT r.tenant_id, r.customer_id, r.meter_id, r.subscription_id, r.used_at, r.properties, r.root_key, r.revision,
           r.folded
    FROM unnest(@tenant_ids::uuid[], @batch_ids::uuid[]) AS b (tenant_id, batch_id)
    JOIN usage_records r ON r.tenant_id = b.tenant_id AND r.batch_id = b.batch_id
), placed AS (
    SELECT w.tenant_id, w.meter_id, o.item_id, o.period_start, w.used_at, w.properties,
           w.root_key IS NOT NULL AS is_revision
    FROM reported w
    CROSS JOIN LATERAL (
        SELECT p.item_id, p.period_start
        FROM subscription_items i
        CROSS JOIN LATERAL (
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
    ) AS o
    WHERE NOT w.folded
    UNION ALL
    SELECT e.tenant_id, e.meter_id, e.item_id, e.period_start, e.used_at, e.properties, true
    FROM reported w
    CROSS JOIN LATERAL (
        SELECT root.* FROM usage_records root
        WHERE root.tenant_id = w.tenant_id AND root.idempotency_key = w.root_key
        UNION ALL
        SELECT later.* FROM usage_records later
        WHERE later.tenant_id = w.tenant_id AND later.root_key = w.root_key AND later.revision < w.revision
        LIMIT 100000
    ) AS e
    WHERE NOT w.folded AND w.root_key IS NOT NULL AND e.item_id IS NOT NULL
)
SELECT t.tenant_id::uuid AS tenant_id, t.item_id::uuid AS item_id, t.period_start::timestamptz AS period_start,
       date_trunc('hour', t.used_at, 'UTC')::timestamptz AS hour,
       (CASE WHEN m.group_by = '{}' THEN '' ELSE usage_group_key(m.group_by, t.properties) END)::text AS group_key,
       bool_or(t.is_revision)::boolean AS is_revised
FROM placed t
JOIN meters m ON m.tenant_id = t.tenant_id AND m.id = t.meter_id
GROUP BY 1, 2, 3, 4, 5;

-- name: HoldUsageBuckets :exec
-- Buckets that are not there are made empty; a fold that adds to one of them is waited for, and seen by the next statement.
INSERT INTO usage_buckets (tenant_id, item_id, period_start, hour, group_key, records, quantity_sum, quantity_max)
SELECT g.tenant_id, g.item_id, g.period_start, g.hour, g.group_key, 0, 0, 0
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[], @hours::timestamptz[], @group_keys::text[])
    AS g (tenant_id, item_id, period_start, hour, group_key)
ORDER BY g.tenant_id, g.item_id, g.period_start, g.hour, g.group_key
ON CONFLICT (tenant_id, item_id, period_start, hour, group_key) DO UPDATE SET records = usage_buckets.records;

-- name: FoldUsageRevisions :many
-- As FoldUsageRecords, for the batches' revisions. One is folded when it had its turn before the buckets were held, belongs
-- where it did then, and its new period and every earlier one are held: these are marked. The buckets are computed
-- afterwards, in a statement that sees this one's work.
WITH reported AS MATERIALIZED (
    SELECT r.tenant_id, r.idempotency_key, r.batch_id, r.customer_id, r.meter_id, r.subscription_id, r.used_at, r.folded,
           r.root_key, r.revision, b.event_id, b.correlation_id
    FROM unnest(@tenant_ids::uuid[], @batch_ids::uuid[], @event_ids::uuid[], @correlation_ids::uuid[])
        AS b (tenant_id, batch_id, event_id, correlation_id)
    JOIN usage_records r ON r.tenant_id = b.tenant_id AND r.batch_id = b.batch_id
    ORDER BY r.tenant_id, r.idempotency_key
    FOR NO KEY UPDATE OF r
), held AS MATERIALIZED (
    SELECT k.tenant_id, k.item_id, k.period_start
    FROM unnest(@held_tenant_ids::uuid[], @held_item_ids::uuid[], @held_period_starts::timestamptz[])
        AS k (tenant_id, item_id, period_start)
), found AS MATERIALIZED (
    SELECT w.*, o.item_id, o.period_start
    FROM reported w
    LEFT JOIN LATERAL (
        SELECT p.item_id, p.period_start
        FROM subscription_items i
        CROSS JOIN LATERAL (
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
    WHERE NOT w.folded AND w.root_key IS NOT NULL
), earlier AS MATERIALIZED (
    SELECT w.tenant_id, w.idempotency_key, e.item_id, e.period_start
    FROM found w
    CROSS JOIN LATERAL (
        SELECT root.item_id, root.period_start FROM usage_records root
        WHERE root.tenant_id = w.tenant_id AND root.idempotency_key = w.root_key
        UNION ALL
        SELECT later.item_id, later.period_start FROM usage_records later
        WHERE later.tenant_id = w.tenant_id AND later.root_key = w.root_key AND later.revision < w.revision
        LIMIT 100000
    ) AS e
), touched AS MATERIALIZED (
    -- Every period whose amount a revision may change; what is used of a level is in every later period too.
    SELECT t.tenant_id, t.idempotency_key, p.item_id, p.period_start, p.subscription_id, p.status
    FROM (
        SELECT f.tenant_id, f.idempotency_key, f.item_id, f.period_start FROM found f WHERE f.item_id IS NOT NULL
        UNION
        SELECT e.tenant_id, e.idempotency_key, e.item_id, e.period_start FROM earlier e WHERE e.item_id IS NOT NULL
    ) AS t
    JOIN subscription_items i ON i.tenant_id = t.tenant_id AND i.id = t.item_id
    JOIN meters m ON m.tenant_id = i.tenant_id AND m.id = i.meter_id
    CROSS JOIN LATERAL (
        SELECT u.* FROM usage_periods u
        WHERE u.tenant_id = t.tenant_id AND u.item_id = t.item_id AND u.period_start >= t.period_start
          AND (u.period_start = t.period_start OR m.aggregation = 'weighted_sum')
        LIMIT 100000
    ) AS p
), resolved AS MATERIALIZED (
    SELECT f.tenant_id, f.idempotency_key, f.batch_id, f.event_id, f.correlation_id, f.item_id, f.period_start,
           EXISTS (
               SELECT FROM unnest(
                   @ready_tenant_ids::uuid[], @ready_keys::text[], sqlc.narg(ready_item_ids)::uuid[],
                   sqlc.narg(ready_period_starts)::timestamptz[]
               ) AS y (tenant_id, idempotency_key, item_id, period_start)
               WHERE y.tenant_id = f.tenant_id AND y.idempotency_key = f.idempotency_key
                 AND y.item_id IS NOT DISTINCT FROM f.item_id AND y.period_start IS NOT DISTINCT FROM f.period_start
           ) AND NOT EXISTS (
               SELECT FROM touched t
               WHERE t.tenant_id = f.tenant_id AND t.idempotency_key = f.idempotency_key
                 AND (t.tenant_id, t.item_id, t.period_start) NOT IN (
                     SELECT h.tenant_id, h.item_id, h.period_start FROM held h
                 )
           ) AND (f.item_id IS NOT NULL OR ((f.tenant_id, f.customer_id) IN (
               SELECT c.tenant_id, c.id
               FROM unnest(@held_customer_tenant_ids::uuid[], @held_customer_ids::uuid[]) AS c (tenant_id, id)
           ) AND NOT EXISTS (
               SELECT FROM subscription_items i
               JOIN subscriptions s ON s.tenant_id = i.tenant_id AND s.id = i.subscription_id
               WHERE i.tenant_id = f.tenant_id AND i.customer_id = f.customer_id AND i.meter_id = f.meter_id
                 AND (s.id = f.subscription_id OR (f.subscription_id IS NULL AND NOT i.subscription_required))
                 AND s.start_at <= f.used_at AND (s.canceled_at IS NULL OR f.used_at < s.canceled_at)
                 AND (i.started_at IS NULL OR i.started_at <= f.used_at)
                 AND (i.ended_at IS NULL OR f.used_at < i.ended_at)
           ))) AS is_ready
    FROM found f
), folded AS (
    UPDATE usage_records
    SET folded = true, item_id = r.item_id, period_start = r.period_start
    FROM resolved r
    WHERE r.is_ready AND usage_records.tenant_id = r.tenant_id
      AND usage_records.idempotency_key = r.idempotency_key AND NOT usage_records.folded
    RETURNING usage_records.tenant_id, usage_records.idempotency_key, r.event_id, r.correlation_id
), marked AS (
    INSERT INTO usage_period_marks (tenant_id, item_id, period_start, subscription_id, kind, event_id, correlation_id)
    SELECT DISTINCT t.tenant_id, t.item_id, t.period_start, t.subscription_id,
           CASE t.status WHEN 'billed' THEN 'adjust' ELSE 'due' END, f.event_id, f.correlation_id
    FROM folded f
    JOIN touched t ON t.tenant_id = f.tenant_id AND t.idempotency_key = f.idempotency_key
    ORDER BY t.tenant_id, t.item_id, t.period_start
)
SELECT DISTINCT r.tenant_id::uuid AS tenant_id, r.batch_id::uuid AS batch_id FROM resolved r WHERE NOT r.is_ready;

-- name: RecomputeUsageBuckets :exec
-- For callers that hold the buckets: what they say, from the records that have an owner.
UPDATE usage_buckets b
SET records = c.records, quantity_sum = c.total, quantity_max = c.highest
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[], @hours::timestamptz[], @group_keys::text[])
    AS g (tenant_id, item_id, period_start, hour, group_key)
CROSS JOIN LATERAL (
    SELECT count(*) AS records, coalesce(sum(u.quantity), 0) AS total, coalesce(max(u.quantity), 0) AS highest
    FROM counted_usage u
    WHERE u.tenant_id = g.tenant_id AND u.item_id = g.item_id AND u.period_start = g.period_start
      AND u.used_at >= g.hour AND u.used_at < g.hour + interval '1 hour' AND u.group_key = g.group_key
) AS c
WHERE b.tenant_id = g.tenant_id AND b.item_id = g.item_id AND b.period_start = g.period_start AND b.hour = g.hour
  AND b.group_key = g.group_key;
