-- Subscription path: subscriptions, their items and their states. Lock order: customer, subscription.

-- name: LockCustomer :one
-- Coverage is made, moved and ended under this lock, so that usage is never taken for unassigned beside it.
SELECT * FROM customers WHERE tenant_id = @tenant_id AND id = @id FOR NO KEY UPDATE;

-- name: FindPricedMeter :one
-- One of these meters that another subscription of the customer prices at or after @start_at, and whose usage need not
-- name that subscription.
SELECT m.key AS meter_key, s.id AS subscription_id
FROM subscription_items i
JOIN subscriptions s ON s.tenant_id = i.tenant_id AND s.id = i.subscription_id
JOIN meters m ON m.tenant_id = i.tenant_id AND m.id = i.meter_id
WHERE i.tenant_id = @tenant_id AND i.customer_id = @customer_id AND i.meter_id = ANY (@meter_ids::uuid[])
  AND (s.canceled_at IS NULL OR s.canceled_at > @start_at::timestamptz)
  AND (i.ended_at IS NULL OR i.ended_at > @start_at::timestamptz)
  AND NOT i.subscription_required
ORDER BY i.id
LIMIT 1;

-- name: InsertSubscription :one
-- No row when the external id is taken.
INSERT INTO subscriptions (
    tenant_id, id, external_id, customer_id, plan_id, status, currency, billing_interval, alignment, time_zone, start_at,
    trial_end_at, anchor_at, billed_until, next_due_at, created_at)
VALUES (
    @tenant_id, @id, sqlc.narg(external_id), @customer_id, @plan_id, 'created', @currency, @billing_interval, @alignment,
    @time_zone, @start_at, sqlc.narg(trial_end_at), sqlc.narg(anchor_at), sqlc.narg(billed_until),
    sqlc.narg(next_due_at), @created_at)
ON CONFLICT (tenant_id, external_id) DO NOTHING
RETURNING *;

-- name: InsertSubscriptionItems :exec
INSERT INTO subscription_items (
    tenant_id, id, subscription_id, customer_id, price_id, meter_id, quantity, subscription_required, created_at)
SELECT @tenant_id, g.id, @subscription_id, @customer_id, g.price_id, g.meter_id, g.quantity::numeric, g.required,
       @created_at
FROM unnest(
    @ids::uuid[], @price_ids::uuid[], sqlc.narg(meter_ids)::uuid[], @quantities::text[], @required::boolean[]
) AS g (id, price_id, meter_id, quantity, required)
ORDER BY g.id;

-- name: GetSubscription :one
SELECT * FROM subscriptions WHERE tenant_id = @tenant_id AND id = @id;

-- name: GetSubscriptionByExternalId :one
SELECT * FROM subscriptions WHERE tenant_id = @tenant_id AND external_id = @external_id::text;

-- name: ListSubscriptionItems :many
-- Those that it has; what a change has removed is left out.
SELECT * FROM subscription_items
WHERE tenant_id = @tenant_id AND subscription_id = @subscription_id AND ended_at IS NULL
ORDER BY id;

-- name: LockSubscriptions :many
SELECT s.*
FROM unnest(@tenant_ids::uuid[], @ids::uuid[]) AS g (tenant_id, id)
JOIN subscriptions s ON s.tenant_id = g.tenant_id AND s.id = g.id
ORDER BY s.tenant_id, s.id
FOR NO KEY UPDATE OF s;

-- name: ClaimOldestDue :many
-- Due subscriptions of tenants that live in machine time, those first that have waited longest. A scheduled change that is
-- due no later comes before, under the customer's lock.
SELECT s.* FROM subscriptions s
WHERE s.next_due_at <= @now::timestamptz AND (s.change_due_at IS NULL OR s.change_due_at > s.next_due_at)
  AND NOT EXISTS (SELECT FROM test_clocks c WHERE c.tenant_id = s.tenant_id)
ORDER BY s.next_due_at, s.tenant_id, s.id
LIMIT @batch_max
FOR NO KEY UPDATE OF s SKIP LOCKED;

-- name: ClaimNewestDue :many
-- The same from the other end, so that catching up after an outage does not hold back what falls due now.
SELECT s.* FROM subscriptions s
WHERE s.next_due_at <= @now::timestamptz AND (s.change_due_at IS NULL OR s.change_due_at > s.next_due_at)
  AND NOT EXISTS (SELECT FROM test_clocks c WHERE c.tenant_id = s.tenant_id)
ORDER BY s.next_due_at DESC, s.tenant_id DESC, s.id DESC
LIMIT @batch_max
FOR NO KEY UPDATE OF s SKIP LOCKED;

-- name: ClaimDueOnTestClocks :many
-- Due subscriptions of tenants with a test clock, of one of them if @tenant_id is given.
SELECT s.* FROM test_clocks c
JOIN subscriptions s ON s.tenant_id = c.tenant_id AND s.next_due_at <= c.business_time
WHERE (sqlc.narg(tenant_id)::uuid IS NULL OR c.tenant_id = sqlc.narg(tenant_id)::uuid)
  AND (s.change_due_at IS NULL OR s.change_due_at > s.next_due_at)
ORDER BY s.next_due_at, s.tenant_id, s.id
LIMIT @batch_max
FOR NO KEY UPDATE OF s SKIP LOCKED;

-- name: MoveSubscriptions :many
-- To another state, for callers that hold the rows' locks. No row for one that has left the old state.
UPDATE subscriptions s
SET status = g.new_status, anchor_at = g.anchor_at, next_due_at = g.next_due_at, version = s.version + 1
FROM unnest(
    @tenant_ids::uuid[], @ids::uuid[], @old_statuses::text[], @new_statuses::text[],
    sqlc.narg(anchor_ats)::timestamptz[], sqlc.narg(next_due_ats)::timestamptz[]
) AS g (tenant_id, id, old_status, new_status, anchor_at, next_due_at)
WHERE s.tenant_id = g.tenant_id AND s.id = g.id AND s.status = g.old_status
RETURNING s.tenant_id, s.id, s.version;

-- name: PostponeStarts :exec
-- The scheduler starts them when their time has come.
UPDATE subscriptions s SET next_due_at = s.start_at
FROM unnest(@tenant_ids::uuid[], @ids::uuid[]) AS g (tenant_id, id)
WHERE s.tenant_id = g.tenant_id AND s.id = g.id AND s.status = 'created' AND s.next_due_at IS NULL;

-- name: AdvanceVersions :many
-- Draws versions for events, for callers that hold the rows' locks; answers each row's last one.
UPDATE subscriptions s SET version = s.version + g.events
FROM unnest(@tenant_ids::uuid[], @ids::uuid[], @events::integer[]) AS g (tenant_id, id, events)
WHERE s.tenant_id = g.tenant_id AND s.id = g.id
RETURNING s.tenant_id, s.id, s.version;

-- name: ListSubscriptions :many
-- Newest first, those made before @before.
SELECT * FROM subscriptions
WHERE tenant_id = @tenant_id
  AND (sqlc.narg(before)::uuid IS NULL OR id < sqlc.narg(before)::uuid)
  AND (sqlc.narg(customer_id)::uuid IS NULL OR customer_id = sqlc.narg(customer_id)::uuid)
  AND (sqlc.narg(plan_id)::uuid IS NULL OR plan_id = sqlc.narg(plan_id)::uuid)
  AND (sqlc.narg(status)::text IS NULL OR status = sqlc.narg(status)::text)
ORDER BY id DESC
LIMIT @page_max;

-- name: ListItemsOfSubscriptions :many
SELECT * FROM subscription_items
WHERE tenant_id = @tenant_id AND subscription_id = ANY (@subscription_ids::uuid[]) AND ended_at IS NULL
ORDER BY id;

-- name: SetExternalId :one
-- No row when the external id is taken.
UPDATE subscriptions s SET external_id = sqlc.narg(external_id)
WHERE s.tenant_id = @tenant_id AND s.id = @id
  AND NOT EXISTS (
      SELECT FROM subscriptions o
      WHERE o.tenant_id = @tenant_id AND o.external_id = sqlc.narg(external_id) AND o.id <> @id
  )
RETURNING s.*;
