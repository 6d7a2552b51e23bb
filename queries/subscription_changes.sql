-- Subscription path: changes and ends of subscriptions. All writes are under the locks of customer and subscription, in
-- that order; usage periods are locked behind them.

-- name: ReadBusinessTime :one
-- The instant of a change, read once the subscription is locked: the tenant's test clock, or machine time.
SELECT coalesce(
    (SELECT c.business_time FROM test_clocks c WHERE c.tenant_id = @tenant_id), clock_timestamp()
)::timestamptz AS business_time;

-- name: ListPricesByIds :many
SELECT * FROM prices WHERE tenant_id = @tenant_id AND id = ANY (@ids::uuid[]);

-- name: UpdateItem :exec
UPDATE subscription_items SET price_id = @price_id, quantity = @quantity WHERE tenant_id = @tenant_id AND id = @id;

-- name: EndItem :exec
UPDATE subscription_items SET ended_at = @ended_at::timestamptz
WHERE tenant_id = @tenant_id AND id = @id AND ended_at IS NULL;

-- name: InsertItem :one
INSERT INTO subscription_items (
    tenant_id, id, subscription_id, customer_id, price_id, meter_id, quantity, subscription_required, created_at,
    started_at)
VALUES (
    @tenant_id, @id, @subscription_id, @customer_id, @price_id, sqlc.narg(meter_id), @quantity, @subscription_required,
    @created_at, @started_at::timestamptz)
RETURNING *;

-- name: HoldUsagePeriods :many
-- The usage periods that a change at @at can touch: those that end after it, and those that the period's or the activation's
-- invoice is to bill.
-- A fold that holds one is waited for.
SELECT * FROM usage_periods
WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id
  AND (period_end > @at::timestamptz OR (bill_kind = 'period' AND bill_boundary = sqlc.narg(boundary)::timestamptz)
       OR (bill_kind = 'activation' AND status <> 'billed'))
ORDER BY item_id, period_start
FOR NO KEY UPDATE;

-- name: CutUsagePeriods :exec
-- They end at @at. For callers that hold the rows' locks.
UPDATE usage_periods
SET period_end = @at::timestamptz, nominal_start = coalesce(nominal_start, period_start),
    nominal_end = coalesce(nominal_end, period_end)
WHERE tenant_id = @tenant_id AND item_id = ANY (@item_ids::uuid[]) AND period_start < @at AND period_end > @at;

-- name: RepriceUsagePeriods :exec
-- Those that begin at @at or later get the item's new price, which also says whether a trial is billed.
UPDATE usage_periods
SET price_id = @price_id, bill_kind = g.bill_kind, bill_boundary = g.bill_boundary
FROM (
    SELECT u.tenant_id, u.item_id, u.period_start,
           CASE WHEN t.trial_end_at IS NOT NULL THEN 'activation' WHEN u.bill_kind <> 'activation' THEN u.bill_kind END
               AS bill_kind,
           CASE WHEN t.trial_end_at IS NOT NULL THEN t.trial_end_at
                WHEN u.bill_kind <> 'activation' THEN u.bill_boundary END AS bill_boundary
    FROM usage_periods u
    LEFT JOIN billed_trials t ON t.tenant_id = u.tenant_id AND t.item_id = u.item_id AND t.trial_end_at > u.period_start
    WHERE u.tenant_id = @tenant_id AND u.item_id = @item_id AND u.period_start >= @at::timestamptz
) AS g
WHERE usage_periods.tenant_id = g.tenant_id AND usage_periods.item_id = g.item_id
  AND usage_periods.period_start = g.period_start;

-- name: DeleteUsagePeriodsFrom :exec
-- Those that begin at @at or later will not be; what looks at them goes first. Their records are reassigned.
WITH gone AS (
    SELECT u.tenant_id, u.item_id, u.period_start FROM usage_periods u
    WHERE u.tenant_id = @tenant_id AND u.item_id = ANY (@item_ids::uuid[]) AND u.period_start >= @at::timestamptz
), unmarked AS (
    DELETE FROM usage_period_marks m USING gone
    WHERE m.tenant_id = gone.tenant_id AND m.item_id = gone.item_id AND m.period_start = gone.period_start
), uncharged AS (
    DELETE FROM charges c USING gone
    WHERE c.tenant_id = gone.tenant_id AND c.item_id = gone.item_id AND c.period_start = gone.period_start
), emptied AS (
    DELETE FROM usage_buckets b USING gone
    WHERE b.tenant_id = gone.tenant_id AND b.item_id = gone.item_id AND b.period_start = gone.period_start
)
DELETE FROM usage_periods p USING gone
WHERE p.tenant_id = gone.tenant_id AND p.item_id = gone.item_id AND p.period_start = gone.period_start;

-- name: InsertItemPeriods :exec
-- Usage periods of single items, which a change begins.
INSERT INTO usage_periods (
    tenant_id, item_id, period_start, period_end, subscription_id, customer_id, meter_id, price_id, bill_kind,
    bill_boundary, nominal_start, nominal_end)
SELECT i.tenant_id, i.id, g.period_start, g.period_end, i.subscription_id, i.customer_id, i.meter_id, i.price_id,
       CASE WHEN t.trial_end_at IS NULL THEN g.bill_kind ELSE 'activation' END,
       coalesce(t.trial_end_at, g.bill_boundary), g.nominal_start, g.nominal_end
FROM unnest(
    @item_ids::uuid[], @period_starts::timestamptz[], @period_ends::timestamptz[], sqlc.narg(bill_kinds)::text[],
    sqlc.narg(bill_boundaries)::timestamptz[], @nominal_starts::timestamptz[], @nominal_ends::timestamptz[]
) AS g (item_id, period_start, period_end, bill_kind, bill_boundary, nominal_start, nominal_end)
JOIN subscription_items i ON i.tenant_id = @tenant_id AND i.id = g.item_id
LEFT JOIN billed_trials t ON t.tenant_id = i.tenant_id AND t.item_id = i.id AND t.trial_end_at > g.period_start
ORDER BY i.id, g.period_start
ON CONFLICT DO NOTHING;

-- name: RekeyUsagePeriods :exec
-- What the period's invoice was to bill is billed by another one.
UPDATE usage_periods SET bill_kind = @kind, bill_boundary = @boundary::timestamptz
WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id
  AND bill_kind = 'period' AND bill_boundary = @old_boundary::timestamptz;

-- name: RekeyTrialUsage :execrows
-- What of the trial is billed is billed by another invoice than it was to be.
UPDATE usage_periods SET bill_kind = @kind, bill_boundary = @boundary::timestamptz
WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id AND bill_kind = 'activation' AND status <> 'billed';

-- name: DeleteOpenCycle :one
-- The current period ends early: another cycle stands for it, and owes its plan what this one did.
DELETE FROM billing_cycles
WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id AND kind = 'period'
  AND boundary = @boundary::timestamptz AND closed_at IS NULL
RETURNING *;

-- name: DeletePlanStretches :exec
-- What the period was to owe from @starts_at on, it does not owe any more.
DELETE FROM plan_stretches
WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id AND starts_at >= @starts_at::timestamptz;

-- name: InsertPlanStretches :exec
-- A plan from @starts_at on, and with the current period's first change the one that it began with; if it owes anything.
INSERT INTO plan_stretches (tenant_id, subscription_id, starts_at, plan_id)
SELECT c.tenant_id, c.subscription_id, g.starts_at, g.plan_id
FROM billing_cycles c
CROSS JOIN LATERAL (
    VALUES (c.period_start, c.plan_id), (@starts_at::timestamptz, @plan_id::uuid)
) AS g (starts_at, plan_id)
WHERE c.tenant_id = @tenant_id AND c.subscription_id = @subscription_id AND c.kind = 'period'
  AND c.boundary = @boundary::timestamptz AND c.closed_at IS NULL AND c.plan_id IS NOT NULL
  AND (g.plan_id = @plan_id::uuid OR g.starts_at < @starts_at::timestamptz)
ON CONFLICT DO NOTHING;

-- name: HasCycle :one
SELECT EXISTS (
    SELECT FROM billing_cycles
    WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id AND kind = @kind AND boundary = @boundary
)::boolean AS found;

-- name: HasFinalInvoice :one
-- Whether the invoice of a cycle can take no more lines. Under the subscription's lock, which finalizing takes too.
SELECT EXISTS (
    SELECT FROM invoices
    WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id AND kind = @kind AND boundary = @boundary
      AND status <> 'draft'
)::boolean AS found;

-- name: EndSubscription :one
-- Canceled since @canceled_at. No row when it is over already.
UPDATE subscriptions
SET status = 'canceled', canceled_at = @canceled_at::timestamptz, next_due_at = sqlc.narg(next_due_at)::timestamptz,
    change_due_at = NULL, version = version + 1
WHERE tenant_id = @tenant_id AND id = @id AND status = ANY (@from_statuses::text[])
RETURNING *;

-- name: ChangeTerms :one
-- Another plan, interval or anchor; for callers that hold the row's lock.
UPDATE subscriptions
SET plan_id = @plan_id, billing_interval = @billing_interval, anchor_at = sqlc.narg(anchor_at)::timestamptz,
    billed_until = sqlc.narg(billed_until)::timestamptz
WHERE tenant_id = @tenant_id AND id = @id
RETURNING *;

-- name: InsertScheduledChange :one
INSERT INTO scheduled_changes (tenant_id, id, subscription_id, kind, due_at, request, created_at)
VALUES (@tenant_id, @id, @subscription_id, @kind, @due_at, @request, @created_at)
RETURNING *;

-- name: GetScheduledChange :one
SELECT * FROM scheduled_changes WHERE tenant_id = @tenant_id AND id = @id;

-- name: GetNextScheduledChange :one
SELECT * FROM scheduled_changes
WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id AND status = 'pending'
ORDER BY due_at, id
LIMIT 1;

-- name: GetScheduledEnd :one
-- When the subscription is going to be canceled; no row when that is not scheduled.
SELECT due_at FROM scheduled_changes
WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id AND status = 'pending' AND kind = 'cancel'
ORDER BY due_at
LIMIT 1;

-- name: ListScheduledChanges :many
-- Of one subscription, newest first, those made before @before.
SELECT * FROM scheduled_changes
WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id
  AND (sqlc.narg(before)::uuid IS NULL OR id < sqlc.narg(before)::uuid)
  AND (NOT @pending_only::boolean OR status = 'pending')
ORDER BY id DESC
LIMIT @page_max;

-- name: FinishScheduledChanges :many
-- Each once: no row for one that is finished.
UPDATE scheduled_changes SET status = @status, error = @error, finished_at = @finished_at::timestamptz
WHERE tenant_id = @tenant_id AND id = ANY (@ids::uuid[]) AND status = 'pending'
RETURNING *;

-- name: ListPendingIds :many
-- A subscription's pending changes, of one kind if it is given.
SELECT id FROM scheduled_changes
WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id AND status = 'pending'
  AND (@kind::text = '' OR kind = @kind::text)
ORDER BY id;

-- name: SetChangeDue :one
-- Says on the subscription when its next pending change falls due.
UPDATE subscriptions s
SET change_due_at = (
    SELECT min(c.due_at) FROM scheduled_changes c
    WHERE c.tenant_id = s.tenant_id AND c.subscription_id = s.id AND c.status = 'pending'
)
WHERE s.tenant_id = @tenant_id AND s.id = @id
RETURNING s.*;

-- name: ListChangesDue :many
-- Subscriptions with a change that is due and that comes before whatever else is due for them, oldest first; no locks,
-- since the customer's comes first. Of tenants that live in machine time.
SELECT s.tenant_id, s.id, s.customer_id FROM subscriptions s
WHERE s.change_due_at <= @now::timestamptz AND s.change_due_at <= coalesce(s.next_due_at, s.change_due_at)
  AND NOT EXISTS (SELECT FROM test_clocks c WHERE c.tenant_id = s.tenant_id)
ORDER BY s.change_due_at, s.tenant_id, s.id
LIMIT @batch_max;

-- name: ListChangesDueOnTestClocks :many
SELECT s.tenant_id, s.id, s.customer_id FROM test_clocks c
JOIN subscriptions s ON s.tenant_id = c.tenant_id AND s.change_due_at <= c.business_time
WHERE (sqlc.narg(tenant_id)::uuid IS NULL OR c.tenant_id = sqlc.narg(tenant_id)::uuid)
  AND s.change_due_at <= coalesce(s.next_due_at, s.change_due_at)
ORDER BY s.change_due_at, s.tenant_id, s.id
LIMIT @batch_max;

-- name: EndTrial :one
-- Sooner than was agreed.
UPDATE subscriptions SET trial_end_at = @trial_end_at::timestamptz, next_due_at = @trial_end_at::timestamptz
WHERE tenant_id = @tenant_id AND id = @id AND status = 'trialing'
RETURNING *;
