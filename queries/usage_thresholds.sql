-- Usage path, step 3: thresholds on what a customer uses or owes so far.

-- name: InsertThreshold :one
-- No row when the customer has @most of them.
INSERT INTO usage_thresholds (tenant_id, id, customer_id, meter_id, quantity, amount, currency, note, created_at)
SELECT @tenant_id::uuid, @id::uuid, @customer_id::uuid, sqlc.narg(meter_id)::uuid, sqlc.narg(quantity)::numeric,
       sqlc.narg(amount)::bigint, sqlc.narg(currency)::text, @note::text, @now::timestamptz
WHERE (SELECT count(*) FROM usage_thresholds t WHERE t.tenant_id = @tenant_id AND t.customer_id = @customer_id) < @most::bigint
RETURNING *;

-- name: GetThreshold :one
SELECT * FROM usage_thresholds WHERE tenant_id = @tenant_id AND id = @id;

-- name: ListThresholds :many
-- Newest first, those before @before, of one customer if it is given.
SELECT * FROM usage_thresholds
WHERE tenant_id = @tenant_id AND (sqlc.narg(before)::uuid IS NULL OR id < sqlc.narg(before)::uuid)
  AND (sqlc.narg(customer_id)::uuid IS NULL OR customer_id = sqlc.narg(customer_id)::uuid)
ORDER BY id DESC
LIMIT @page_max;

-- name: UpdateThreshold :one
UPDATE usage_thresholds
SET quantity = sqlc.narg(quantity)::numeric, amount = sqlc.narg(amount)::bigint, note = @note, version = version + 1
WHERE tenant_id = @tenant_id AND id = @id
RETURNING *;

-- name: DeleteThreshold :execrows
DELETE FROM usage_thresholds WHERE tenant_id = @tenant_id AND id = @id;

-- name: ListReachedThresholds :many
-- Thresholds of these subscriptions' customers that the running charges of a period have reached, and that were not told
-- for it. A period is a billing period or the time before the first, also when a change has cut it or moved its end. One
-- that has not begun, though a level stands in it already, waits. Of pieces that a change has made of it, sums and counts add up; of the largest, the last and distinct values the most counts.
SELECT t.tenant_id, t.id AS threshold_id, s.id AS subscription_id, t.customer_id, t.meter_id, t.quantity, t.amount,
       s.currency, f.period_start::timestamptz AS period_start, f.period_end::timestamptz AS period_end,
       f.quantity::numeric AS reached_quantity, f.amount::bigint AS reached_amount
FROM unnest(@tenant_ids::uuid[], @subscription_ids::uuid[], @todays::timestamptz[]) AS k (tenant_id, subscription_id, today)
JOIN subscriptions s ON s.tenant_id = k.tenant_id AND s.id = k.subscription_id
JOIN usage_thresholds t ON t.tenant_id = s.tenant_id AND t.customer_id = s.customer_id
JOIN LATERAL (
    SELECT u.begins_at AS period_start, max(u.ends_at) AS period_end, sum(u.amount) AS amount,
           CASE WHEN min(u.aggregation) IN ('max', 'latest', 'unique') THEN max(u.quantity) ELSE sum(u.quantity) END
               AS quantity
    FROM (
        SELECT m.aggregation,
               CASE WHEN p.period_start < greatest(s.trial_end_at, s.billed_until) THEN s.start_at
                    ELSE coalesce((
                        SELECT b.period_start FROM billing_cycles b
                        WHERE b.tenant_id = p.tenant_id AND b.subscription_id = p.subscription_id
                          AND b.kind = p.bill_kind AND b.boundary = p.bill_boundary
                    ), p.period_start) END AS begins_at,
               coalesce(p.bill_boundary, p.period_end) AS ends_at, sum(c.amount) AS amount,
               coalesce(sum(coalesce(c.measured, c.quantity)) FILTER (WHERE c.kind = 'usage'), 0) AS quantity
        FROM usage_periods p
        JOIN charges c ON c.tenant_id = p.tenant_id AND c.item_id = p.item_id AND c.period_start = p.period_start
        JOIN meters m ON m.tenant_id = p.tenant_id AND m.id = p.meter_id
        WHERE p.tenant_id = s.tenant_id AND p.subscription_id = s.id AND p.status <> 'billed' AND p.period_start <= k.today
          AND (t.meter_id IS NULL OR p.meter_id = t.meter_id)
        GROUP BY p.tenant_id, p.item_id, p.period_start, m.aggregation
    ) AS u
    GROUP BY u.begins_at
) AS f ON f.quantity >= t.quantity OR f.amount >= t.amount
WHERE (t.currency IS NULL OR t.currency = s.currency)
  AND NOT EXISTS (
      SELECT FROM usage_threshold_crossings x
      WHERE x.tenant_id = t.tenant_id AND x.threshold_id = t.id AND x.subscription_id = s.id
        AND (x.period_start = f.period_start OR x.period_start IS NULL AND x.period_end = f.period_end)
  )
ORDER BY t.tenant_id, t.id, s.id, f.period_start;

-- name: InsertCrossings :many
-- Each once for a threshold, a subscription and a period; answers those that are new.
INSERT INTO usage_threshold_crossings (
    tenant_id, threshold_id, subscription_id, period_start, period_end, id, reached, crossed_at)
SELECT g.tenant_id, g.threshold_id, g.subscription_id, g.period_start, g.period_end, g.id, g.reached::numeric, g.crossed_at
FROM unnest(
    @tenant_ids::uuid[], @threshold_ids::uuid[], @subscription_ids::uuid[], @period_starts::timestamptz[],
    @period_ends::timestamptz[], @ids::uuid[], @reached::text[], @crossed_ats::timestamptz[]
) AS g (tenant_id, threshold_id, subscription_id, period_start, period_end, id, reached, crossed_at)
ORDER BY g.tenant_id, g.threshold_id, g.subscription_id, g.period_start
ON CONFLICT DO NOTHING
RETURNING id;
