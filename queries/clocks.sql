-- Business time: the test clocks of test-mode tenants.

-- name: ListBusinessTimes :many
-- A tenant in live mode never has a test clock, one in test mode has none until it makes one.
SELECT t.id AS tenant_id, (t.mode = 'live')::boolean AS live, c.business_time AS "business_time?"
FROM tenants t LEFT JOIN test_clocks c ON c.tenant_id = t.id
WHERE t.id = ANY (@tenant_ids::uuid[]);

-- name: GetTenantMode :one
SELECT mode FROM tenants WHERE id = @tenant_id;

-- name: InsertTestClock :one
-- No row when the tenant has one.
INSERT INTO test_clocks (tenant_id, business_time, target_time, status, created_at)
VALUES (@tenant_id, @start_time, @start_time, 'ready', @now)
ON CONFLICT (tenant_id) DO NOTHING
RETURNING *;

-- name: GetTestClock :one
SELECT * FROM test_clocks WHERE tenant_id = @tenant_id;

-- name: LockTestClock :one
SELECT * FROM test_clocks WHERE tenant_id = @tenant_id FOR NO KEY UPDATE;

-- name: SendTestClock :one
UPDATE test_clocks
SET target_time = @target_time, status = 'advancing', waiting_for = '', step_began_at = @now::timestamptz,
    from_time = business_time, advance_began_at = @now::timestamptz,
    waiting_since = @now::timestamptz, version = version + 1
WHERE tenant_id = @tenant_id AND status <> 'advancing' AND business_time < @target_time
RETURNING *;

-- name: RetryDrafts :exec
-- Who sends a clock on has mended what blocked its drafts, or wants to see that he has not.
WITH held AS (
    SELECT i.id FROM invoices i
    WHERE i.tenant_id = @tenant_id AND i.status = 'draft' AND i.retry_at IS NOT NULL
    ORDER BY i.id
    FOR NO KEY UPDATE OF i
)
UPDATE invoices SET retry_at = NULL
FROM held
WHERE invoices.tenant_id = @tenant_id AND invoices.id = held.id AND invoices.status = 'draft';

-- name: ListAdvancingClocks :many
SELECT * FROM test_clocks WHERE status = 'advancing' ORDER BY tenant_id LIMIT @batch_max;

-- name: MoveTestClock :execrows
-- To the next due instant or the target. No row when another worker moved it first.
UPDATE test_clocks
SET business_time = @next_time, status = @status, waiting_for = '', step_began_at = @now::timestamptz,
    waiting_since = @now::timestamptz
WHERE tenant_id = @tenant_id AND status = 'advancing' AND version = @version AND business_time = @business_time;

-- name: TellWaiting :execrows
-- What the clock waits for, and since when: only when it is something else than before.
UPDATE test_clocks SET waiting_for = @waiting_for, waiting_since = @now::timestamptz
WHERE tenant_id = @tenant_id AND status = 'advancing' AND version = @version AND business_time = @business_time
  AND waiting_for <> @waiting_for;

-- name: FailTestClock :execrows
UPDATE test_clocks SET status = 'failed'
WHERE tenant_id = @tenant_id AND status = 'advancing' AND version = @version AND business_time = @business_time
  AND waiting_for = @waiting_for;

-- name: CountDue :one
-- What is due in the tenant at its instant: subscriptions, their scheduled changes, drafts, marks of usage to be rated,
-- invoices to be paid.
SELECT
    (SELECT count(*) FROM subscriptions s
     WHERE s.tenant_id = @tenant_id AND s.next_due_at <= @business_time)::bigint AS subscriptions,
    (SELECT count(*) FROM subscriptions s
     WHERE s.tenant_id = @tenant_id AND s.change_due_at <= @business_time)::bigint AS changes,
    (SELECT count(*) FROM invoices i
     WHERE i.tenant_id = @tenant_id AND i.status = 'draft' AND i.finalize_at <= @business_time)::bigint AS drafts,
    (SELECT count(*) FROM usage_period_marks m
     WHERE m.tenant_id = @tenant_id AND m.kind = 'due')::bigint AS marks,
    (SELECT count(*) FROM invoices i
     WHERE i.tenant_id = @tenant_id AND i.status = 'open' AND i.due_told_at IS NULL
       AND i.due_at <= @business_time)::bigint AS unpaid;

-- name: FindBlockedDraft :one
SELECT id, coalesce(blocked_reason, '')::text AS blocked_reason FROM invoices
WHERE tenant_id = @tenant_id AND status = 'draft' AND finalize_at <= @business_time
ORDER BY blocked_reason NULLS LAST, id
LIMIT 1;

-- name: FindUnratedUsage :one
SELECT s.id, coalesce(s.rating_error, '')::text AS rating_error
FROM usage_period_marks m
JOIN subscriptions s ON s.tenant_id = m.tenant_id AND s.id = m.subscription_id
WHERE m.tenant_id = @tenant_id AND m.kind = 'due'
ORDER BY s.rating_error NULLS LAST, s.id
LIMIT 1;

-- name: FindUnhandledEvent :one
-- An event of the step that a consumer wants and has neither handled nor given up. The subject '*' is every subject.
SELECT e.id, e.subject, w.consumer::text AS consumer
FROM billing_events e
JOIN unnest(@consumers::text[], @subjects::text[]) AS w (consumer, subject) ON w.subject IN (e.subject, '*')
WHERE e.tenant_id = @tenant_id AND e.id >= @first_id::uuid
  AND NOT EXISTS (SELECT FROM router_consumers c WHERE c.name = w.consumer AND e.id < c.first_event_id)
  AND NOT EXISTS (SELECT FROM inbox h WHERE h.consumer = w.consumer AND h.event_id = e.id)
  AND NOT EXISTS (
      SELECT FROM router_dead_letters d
      WHERE d.consumer IN (w.consumer, '*') AND d.resource = e.resource AND d.resource_version = e.resource_version
        AND d.event_id = e.id
  )
ORDER BY e.id
LIMIT 1;

-- name: FindWaitingEvent :one
SELECT event_id, subject, consumer, last_error FROM router_waiting
WHERE tenant_id = @tenant_id
ORDER BY last_error DESC, event_id
LIMIT 1;

-- name: FindPauseInTheWay :one
-- A pause that holds back an event of the tenant: its own, that of a consumer which has one waiting, or of its shard.
SELECT coalesce('the consumer ' || p.consumer, 'the shard ' || p.shard, 'the tenant')::text AS paused, p.reason
FROM pauses p
WHERE p.resumed_at IS NULL AND (
    p.tenant_id = @tenant_id
    OR EXISTS (SELECT FROM router_waiting w WHERE w.tenant_id = @tenant_id AND w.consumer = p.consumer)
    OR EXISTS (SELECT FROM outbox o WHERE o.tenant_id = @tenant_id AND o.shard = p.shard))
ORDER BY p.tenant_id NULLS LAST, p.paused_at
LIMIT 1;

-- name: FindUnpublishedEvent :one
SELECT event_id, subject, coalesce(last_error, '')::text AS last_error FROM outbox
WHERE tenant_id = @tenant_id
LIMIT 1;

-- name: HasUnfoldedUsage :one
SELECT EXISTS (SELECT FROM usage_records WHERE tenant_id = @tenant_id AND NOT folded)::boolean AS unfolded;

-- name: FindNextInstant :one
-- The next instant after @business_time at which something falls due; null when nothing will.
SELECT least(
    (SELECT min(s.next_due_at) FROM subscriptions s
     WHERE s.tenant_id = @tenant_id AND s.next_due_at > @business_time),
    (SELECT min(s.change_due_at) FROM subscriptions s
     WHERE s.tenant_id = @tenant_id AND s.change_due_at > @business_time),
    (SELECT min(i.finalize_at) FROM invoices i
     WHERE i.tenant_id = @tenant_id AND i.status = 'draft' AND i.finalize_at > @business_time),
    (SELECT min(i.due_at) FROM invoices i
     WHERE i.tenant_id = @tenant_id AND i.status = 'open' AND i.due_told_at IS NULL AND i.due_at > @business_time)
)::timestamptz AS "instant?";

-- name: CountEventsSince :many
-- The tenant's events from an id on, by subject.
SELECT e.subject, count(*) AS events FROM billing_events e
WHERE e.tenant_id = @tenant_id AND e.id >= @first_id::uuid
GROUP BY e.subject
ORDER BY e.subject;
