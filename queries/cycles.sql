-- Invoice path, steps 1 and 2: billing cycles and the periods of subscriptions. All under the subscriptions' row locks.

-- name: InsertCycles :exec
-- A change that ends a period may come at the instant of one that did not: the cycle is one, and it ends the period.
INSERT INTO billing_cycles (tenant_id, subscription_id, kind, boundary, id, period_start, plan_id, closed_at)
SELECT g.tenant_id, g.subscription_id, g.kind, g.boundary, g.id, g.period_start, g.plan_id, g.closed_at
FROM unnest(
    @tenant_ids::uuid[], @subscription_ids::uuid[], @kinds::text[], @boundaries::timestamptz[], @ids::uuid[],
    sqlc.narg(period_starts)::timestamptz[], sqlc.narg(plan_ids)::uuid[], sqlc.narg(closed_ats)::timestamptz[]
) AS g (tenant_id, subscription_id, kind, boundary, id, period_start, plan_id, closed_at)
ORDER BY g.tenant_id, g.subscription_id, g.kind, g.boundary
ON CONFLICT (tenant_id, subscription_id, kind, boundary) DO UPDATE
SET period_start = excluded.period_start, plan_id = excluded.plan_id
WHERE billing_cycles.period_start IS NULL AND excluded.period_start IS NOT NULL;

-- name: CloseCycles :many
-- Closes open cycles, once: no row for one that is closed. Oldest first, and of those that end at one instant in the order of
-- their subscriptions, which is that of their invoices' numbers.
WITH held AS (
    SELECT c.tenant_id, c.subscription_id, c.kind, c.boundary, g.closed_at
    FROM unnest(@tenant_ids::uuid[], @subscription_ids::uuid[], @boundaries::timestamptz[], @closed_ats::timestamptz[])
        AS g (tenant_id, subscription_id, boundary, closed_at)
    JOIN billing_cycles c ON c.tenant_id = g.tenant_id AND c.subscription_id = g.subscription_id
        AND c.kind = 'period' AND c.boundary = g.boundary
    ORDER BY c.tenant_id, c.subscription_id, c.kind, c.boundary
    FOR NO KEY UPDATE OF c
), closed AS (
    UPDATE billing_cycles SET closed_at = held.closed_at
    FROM held
    WHERE billing_cycles.tenant_id = held.tenant_id AND billing_cycles.subscription_id = held.subscription_id
      AND billing_cycles.kind = held.kind AND billing_cycles.boundary = held.boundary AND billing_cycles.closed_at IS NULL
    RETURNING billing_cycles.*
)
SELECT closed.tenant_id, closed.subscription_id, closed.id, closed.boundary, closed.period_start FROM closed
ORDER BY closed.boundary, closed.tenant_id, closed.subscription_id;

-- name: OpenPeriods :many
-- The billing period that each subscription is in now, and when it ends.
UPDATE subscriptions s
SET period_index = g.period_index, period_start = g.period_start, period_end = g.period_end,
    next_due_at = g.period_end, version = s.version + 1
FROM unnest(
    @tenant_ids::uuid[], @ids::uuid[], @period_indexes::integer[], @period_starts::timestamptz[],
    @period_ends::timestamptz[]
) AS g (tenant_id, id, period_index, period_start, period_end)
WHERE s.tenant_id = g.tenant_id AND s.id = g.id AND s.status = 'active'
RETURNING s.tenant_id, s.id, s.version;

-- name: InsertUsagePeriods :exec
-- One row for each metered item that the subscriptions have by then; those that are there stay as they are. A trial that
-- its price bills is billed at its end.
INSERT INTO usage_periods (
    tenant_id, item_id, period_start, period_end, subscription_id, customer_id, meter_id, price_id, bill_kind,
    bill_boundary, nominal_start, nominal_end)
SELECT i.tenant_id, i.id, g.period_start, g.period_end, i.subscription_id, i.customer_id, i.meter_id, i.price_id,
       CASE WHEN t.trial_end_at IS NULL THEN g.bill_kind ELSE 'activation' END,
       coalesce(t.trial_end_at, g.bill_boundary), g.nominal_start, g.nominal_end
FROM unnest(
    @tenant_ids::uuid[], @subscription_ids::uuid[], @period_starts::timestamptz[], @period_ends::timestamptz[],
    sqlc.narg(bill_kinds)::text[], sqlc.narg(bill_boundaries)::timestamptz[], sqlc.narg(nominal_starts)::timestamptz[],
    sqlc.narg(nominal_ends)::timestamptz[]
) AS g (
    tenant_id, subscription_id, period_start, period_end, bill_kind, bill_boundary, nominal_start, nominal_end
)
JOIN subscription_items i ON i.tenant_id = g.tenant_id AND i.subscription_id = g.subscription_id
LEFT JOIN billed_trials t ON t.tenant_id = i.tenant_id AND t.item_id = i.id AND t.trial_end_at > g.period_start
WHERE i.meter_id IS NOT NULL AND i.ended_at IS NULL AND (i.started_at IS NULL OR i.started_at <= g.period_start)
ORDER BY i.tenant_id, i.id, g.period_start
ON CONFLICT DO NOTHING;
