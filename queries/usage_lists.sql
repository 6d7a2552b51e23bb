-- Usage path, beside it: records for those who look, newest first. What is listed of a record is what counts: the highest
-- folded revision, or the original while it is on its way.

-- name: ListUsage :many
-- Of a customer or a subscription, each kind of record by its own index: those with an owner item by item, those without,
-- those on their way.
SELECT r.tenant_id, r.idempotency_key, r.batch_id, r.root_key, r.revision, r.voided, r.meter_id, m.key AS meter_key,
       r.customer_id, r.subscription_id, r.used_at, r.quantity, r.properties, r.accepted_at, r.folded, r.item_id,
       r.period_start, r.note, p.subscription_id AS "owner_subscription_id?", p.period_end AS "period_end?",
       p.status AS "period_status?"
FROM (
    SELECT o.tenant_id, o.idempotency_key, o.batch_id, o.root_key, o.revision, o.voided, o.meter_id,
           o.customer_id, o.subscription_id, o.used_at, o.quantity, o.properties, o.accepted_at, o.folded,
           o.item_id, o.period_start, o.note
    FROM subscription_items i
    CROSS JOIN LATERAL (
        SELECT u.tenant_id, u.idempotency_key, u.batch_id, u.root_key, u.revision, u.voided, u.meter_id,
               u.customer_id, u.subscription_id, u.used_at, u.quantity, u.properties, u.accepted_at, u.folded,
               u.item_id, u.period_start, u.note
        FROM usage_records u
        JOIN usage_periods q
            ON q.tenant_id = u.tenant_id AND q.item_id = u.item_id AND q.period_start = u.period_start
        WHERE u.tenant_id = i.tenant_id AND u.item_id = i.id
          AND (sqlc.narg(period_start)::timestamptz IS NULL OR u.period_start = sqlc.narg(period_start)::timestamptz)
          AND (sqlc.narg(state)::text IS NULL OR (sqlc.narg(state)::text = 'VOIDED' AND u.voided)
               OR (NOT u.voided AND sqlc.narg(state)::text = CASE q.status WHEN 'billed' THEN 'BILLED' ELSE 'ASSIGNED' END))
          AND u.used_at >= @since::timestamptz
          AND (u.used_at, coalesce(u.root_key, u.idempotency_key)) < (@before_at::timestamptz, @before_key::text)
          AND NOT EXISTS (
              SELECT FROM usage_records later
              WHERE later.tenant_id = u.tenant_id AND later.root_key = coalesce(u.root_key, u.idempotency_key)
                AND later.revision > u.revision AND later.folded
          )
        ORDER BY u.period_start DESC, u.used_at DESC, coalesce(u.root_key, u.idempotency_key) DESC
        LIMIT @page_max
    ) AS o
    WHERE i.tenant_id = @tenant_id
      AND (sqlc.narg(customer_id)::uuid IS NULL OR i.customer_id = sqlc.narg(customer_id)::uuid)
      AND (sqlc.narg(subscription_id)::uuid IS NULL OR i.subscription_id = sqlc.narg(subscription_id)::uuid)
      AND (sqlc.narg(item_id)::uuid IS NULL OR i.id = sqlc.narg(item_id)::uuid)
      AND (sqlc.narg(meter_id)::uuid IS NULL OR i.meter_id = sqlc.narg(meter_id)::uuid)
      AND (sqlc.narg(state)::text IS NULL OR sqlc.narg(state)::text IN ('ASSIGNED', 'BILLED', 'VOIDED'))
      AND num_nonnulls(sqlc.narg(customer_id)::uuid, sqlc.narg(subscription_id)::uuid, sqlc.narg(item_id)::uuid) > 0
    UNION ALL
    (SELECT u.tenant_id, u.idempotency_key, u.batch_id, u.root_key, u.revision, u.voided, u.meter_id,
            u.customer_id, u.subscription_id, u.used_at, u.quantity, u.properties, u.accepted_at, u.folded,
            u.item_id, u.period_start, u.note
     FROM usage_records u
     WHERE u.tenant_id = @tenant_id AND u.folded AND u.item_id IS NULL
       AND (sqlc.narg(customer_id)::uuid IS NULL OR u.customer_id = sqlc.narg(customer_id)::uuid)
       AND (sqlc.narg(subscription_id)::uuid IS NULL OR u.subscription_id = sqlc.narg(subscription_id)::uuid)
       AND (sqlc.narg(meter_id)::uuid IS NULL OR u.meter_id = sqlc.narg(meter_id)::uuid)
       AND (sqlc.narg(state)::text IS NULL
            OR sqlc.narg(state)::text = CASE WHEN u.voided THEN 'VOIDED' ELSE 'UNASSIGNED' END)
       AND sqlc.narg(item_id)::uuid IS NULL
       AND u.used_at >= @since::timestamptz
       AND (u.used_at, coalesce(u.root_key, u.idempotency_key)) < (@before_at::timestamptz, @before_key::text)
       AND NOT EXISTS (
           SELECT FROM usage_records later
           WHERE later.tenant_id = u.tenant_id AND later.root_key = coalesce(u.root_key, u.idempotency_key)
             AND later.revision > u.revision AND later.folded
       )
     ORDER BY u.used_at DESC, coalesce(u.root_key, u.idempotency_key) DESC
     LIMIT @page_max)
    UNION ALL
    (SELECT u.tenant_id, u.idempotency_key, u.batch_id, u.root_key, u.revision, u.voided, u.meter_id,
            u.customer_id, u.subscription_id, u.used_at, u.quantity, u.properties, u.accepted_at, u.folded,
            u.item_id, u.period_start, u.note
     FROM usage_records u
     WHERE u.tenant_id = @tenant_id AND NOT u.folded AND u.root_key IS NULL
       AND (sqlc.narg(customer_id)::uuid IS NULL OR u.customer_id = sqlc.narg(customer_id)::uuid)
       AND (sqlc.narg(subscription_id)::uuid IS NULL OR u.subscription_id = sqlc.narg(subscription_id)::uuid)
       AND (sqlc.narg(meter_id)::uuid IS NULL OR u.meter_id = sqlc.narg(meter_id)::uuid)
       AND (sqlc.narg(state)::text IS NULL OR sqlc.narg(state)::text = 'PENDING')
       AND sqlc.narg(item_id)::uuid IS NULL
       AND u.used_at >= @since::timestamptz
       AND (u.used_at, u.idempotency_key) < (@before_at::timestamptz, @before_key::text)
     ORDER BY u.used_at DESC, u.idempotency_key DESC
     LIMIT @page_max)
) AS r
JOIN meters m ON m.tenant_id = r.tenant_id AND m.id = r.meter_id
LEFT JOIN usage_periods p
    ON p.tenant_id = r.tenant_id AND p.item_id = r.item_id AND p.period_start = r.period_start
ORDER BY r.used_at DESC, coalesce(r.root_key, r.idempotency_key) DESC
LIMIT @page_max;

-- name: ListUsageOfBatches :many
-- What came in a batch, or under a backfill job, as it counts now, in the same order.
SELECT r.tenant_id, r.idempotency_key, r.batch_id, r.root_key, r.revision, r.voided, r.meter_id, m.key AS meter_key,
       r.customer_id, r.subscription_id, r.used_at, r.quantity, r.properties, r.accepted_at, r.folded, r.item_id,
       r.period_start, r.note, p.subscription_id AS "owner_subscription_id?", p.period_end AS "period_end?",
       p.status AS "period_status?"
FROM (
    SELECT DISTINCT coalesce(u.root_key, u.idempotency_key) AS root_key
    FROM usage_records u
    WHERE u.tenant_id = @tenant_id AND u.batch_id IN (
        SELECT sqlc.narg(batch_id)::uuid
        UNION ALL
        SELECT b.batch_id FROM usage_backfill_batches b
        WHERE b.tenant_id = @tenant_id AND b.backfill_id = sqlc.narg(backfill_id)::uuid
    )
) AS named
CROSS JOIN LATERAL (
    SELECT c.tenant_id, c.idempotency_key, c.batch_id, c.root_key, c.revision, c.voided, c.meter_id,
           c.customer_id, c.subscription_id, c.used_at, c.quantity, c.properties, c.accepted_at, c.folded,
           c.item_id, c.period_start, c.note
    FROM (
        SELECT root.tenant_id, root.idempotency_key, root.batch_id, root.root_key, root.revision, root.voided,
               root.meter_id, root.customer_id, root.subscription_id, root.used_at, root.quantity,
               root.properties, root.accepted_at, root.folded, root.item_id, root.period_start, root.note FROM usage_records root
        WHERE root.tenant_id = @tenant_id AND root.idempotency_key = named.root_key
        UNION ALL
        SELECT later.tenant_id, later.idempotency_key, later.batch_id, later.root_key, later.revision,
               later.voided, later.meter_id, later.customer_id, later.subscription_id, later.used_at,
               later.quantity, later.properties, later.accepted_at, later.folded, later.item_id,
               later.period_start, later.note FROM usage_records later
        WHERE later.tenant_id = @tenant_id AND later.root_key = named.root_key AND later.folded
    ) AS c
    ORDER BY c.revision DESC
    LIMIT 1
) AS r
JOIN meters m ON m.tenant_id = r.tenant_id AND m.id = r.meter_id
LEFT JOIN usage_periods p
    ON p.tenant_id = r.tenant_id AND p.item_id = r.item_id AND p.period_start = r.period_start
WHERE r.used_at >= @since::timestamptz
  AND (r.used_at, named.root_key) < (@before_at::timestamptz, @before_key::text)
  AND (sqlc.narg(customer_id)::uuid IS NULL OR r.customer_id = sqlc.narg(customer_id)::uuid)
  AND (sqlc.narg(meter_id)::uuid IS NULL OR r.meter_id = sqlc.narg(meter_id)::uuid)
  AND (sqlc.narg(state)::text IS NULL OR sqlc.narg(state)::text = CASE
      WHEN NOT r.folded THEN 'PENDING'
      WHEN r.voided THEN 'VOIDED'
      WHEN r.item_id IS NULL THEN 'UNASSIGNED'
      WHEN p.status = 'billed' THEN 'BILLED'
      ELSE 'ASSIGNED'
  END)
ORDER BY r.used_at DESC, named.root_key DESC
LIMIT @page_max;

-- name: ListUnassignedUsage :many
-- What belongs to no subscription, by customer and meter, after a given pair.
SELECT r.customer_id, c.external_id AS "external_id?", r.meter_id, m.key AS meter_key, count(*) AS records,
       sum(r.quantity)::numeric AS quantity, min(r.used_at)::timestamptz AS first_at, max(r.used_at)::timestamptz AS last_at
FROM usage_records r
JOIN customers c ON c.tenant_id = r.tenant_id AND c.id = r.customer_id
JOIN meters m ON m.tenant_id = r.tenant_id AND m.id = r.meter_id
WHERE r.tenant_id = @tenant_id AND r.folded AND r.item_id IS NULL AND NOT r.voided
  AND (sqlc.narg(customer_id)::uuid IS NULL OR r.customer_id = sqlc.narg(customer_id)::uuid)
  AND (sqlc.narg(after_customer_id)::uuid IS NULL
       OR (r.customer_id, r.meter_id) > (sqlc.narg(after_customer_id)::uuid, sqlc.narg(after_meter_id)::uuid))
  AND NOT EXISTS (
      SELECT FROM usage_records later
      WHERE later.tenant_id = r.tenant_id AND later.root_key = coalesce(r.root_key, r.idempotency_key)
        AND later.revision > r.revision AND later.folded
  )
GROUP BY r.customer_id, c.external_id, r.meter_id, m.key
ORDER BY r.customer_id, r.meter_id
LIMIT @page_max;

-- name: SummarizeUsage :many
-- What counted of a meter in [@since, @until), by stretches of the zone's calendar or by usage period, and by group; a
-- stretch without usage has no row.
SELECT s.stretch_start::timestamptz AS stretch_start,
       (CASE @grain::text
            WHEN 'period' THEN s.period_end
            WHEN 'hour' THEN s.stretch_start + interval '1 hour'
            WHEN 'day' THEN date_add(s.stretch_start, interval '1 day', @zone::text)
            ELSE date_add(s.stretch_start, interval '1 month', @zone::text)
        END)::timestamptz AS stretch_end,
       s.group_key::text AS group_key, s.records, s.total::numeric AS total, s.highest::numeric AS highest, s.uniques,
       s.latest::numeric AS latest
FROM (
    SELECT CASE @grain::text WHEN 'period' THEN p.period_start ELSE date_trunc(@grain::text, c.used_at, @zone::text) END
               AS stretch_start,
           max(p.period_end) AS period_end, c.group_key, count(*) AS records, sum(c.quantity) AS total,
           max(c.quantity) AS highest, count(DISTINCT c.unique_value) AS uniques,
           (array_agg(c.quantity ORDER BY c.used_at DESC, c.root_key COLLATE "C" DESC))[1] AS latest
    FROM subscription_items i
    JOIN usage_periods p ON p.tenant_id = i.tenant_id AND p.item_id = i.id
    JOIN counted_usage c ON c.tenant_id = p.tenant_id AND c.item_id = p.item_id AND c.period_start = p.period_start
    WHERE i.tenant_id = @tenant_id AND i.meter_id = @meter_id AND i.customer_id = @customer_id
      AND (sqlc.narg(subscription_id)::uuid IS NULL OR i.subscription_id = sqlc.narg(subscription_id)::uuid)
      AND p.period_start < @until::timestamptz AND p.period_end > @since::timestamptz
      AND c.used_at >= @since::timestamptz AND c.used_at < @until::timestamptz
    GROUP BY 1, c.group_key
) AS s
ORDER BY s.stretch_start, s.group_key
LIMIT @rows_max;

-- name: SummarizeUsageBuckets :many
-- The same of count, sum and max, from the hour buckets: for bounds and zones whose hours are those of UTC.
SELECT s.stretch_start::timestamptz AS stretch_start,
       (CASE @grain::text
            WHEN 'period' THEN s.period_end
            WHEN 'hour' THEN s.stretch_start + interval '1 hour'
            WHEN 'day' THEN date_add(s.stretch_start, interval '1 day', @zone::text)
            ELSE date_add(s.stretch_start, interval '1 month', @zone::text)
        END)::timestamptz AS stretch_end,
       s.group_key::text AS group_key, s.records::bigint AS records, s.total::numeric AS total,
       s.highest::numeric AS highest
FROM (
    SELECT CASE @grain::text WHEN 'period' THEN p.period_start ELSE date_trunc(@grain::text, b.hour, @zone::text) END
               AS stretch_start,
           max(p.period_end) AS period_end, b.group_key, sum(b.records) AS records, sum(b.quantity_sum) AS total,
           max(b.quantity_max) AS highest
    FROM subscription_items i
    JOIN usage_periods p ON p.tenant_id = i.tenant_id AND p.item_id = i.id
    JOIN usage_buckets b ON b.tenant_id = p.tenant_id AND b.item_id = p.item_id AND b.period_start = p.period_start
    WHERE i.tenant_id = @tenant_id AND i.meter_id = @meter_id AND i.customer_id = @customer_id
      AND (sqlc.narg(subscription_id)::uuid IS NULL OR i.subscription_id = sqlc.narg(subscription_id)::uuid)
      AND p.period_start < @until::timestamptz AND p.period_end > @since::timestamptz
      AND b.hour >= @since::timestamptz AND b.hour < @until::timestamptz AND b.records > 0
    GROUP BY 1, b.group_key
) AS s
ORDER BY s.stretch_start, s.group_key
LIMIT @rows_max;
