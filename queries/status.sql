-- Operations: what waits where. Under a tenant's key, row-level security narrows every count to that tenant. A count
-- ends at `most`: to look at a house in trouble must not take a scan of its trouble.

-- name: CountOutbox :one
SELECT count(*) AS pending, min(q.at)::timestamptz AS "oldest?"
FROM (SELECT uuid_extract_timestamp(o.event_id)::timestamptz AS at FROM outbox o ORDER BY o.event_id LIMIT @most::integer) AS q;

-- name: CountOutboxDeadLetters :one
SELECT count(*) AS pending, min(q.at)::timestamptz AS "oldest?"
FROM (SELECT d.died_at AS at FROM outbox_dead_letters d LIMIT @most::integer) AS q;

-- name: CountRouterWaiting :one
SELECT count(*) AS pending, min(q.at)::timestamptz AS "oldest?"
FROM (SELECT w.parked_at AS at FROM router_waiting w LIMIT @most::integer) AS q;

-- name: CountRouterDeadLetters :one
SELECT count(*) AS pending, min(q.at)::timestamptz AS "oldest?"
FROM (SELECT d.died_at AS at FROM router_dead_letters d LIMIT @most::integer) AS q;

-- name: CountRatingDue :one
SELECT count(*) AS pending, min(q.at)::timestamptz AS "oldest?"
FROM (SELECT m.created_at AS at FROM usage_period_marks m WHERE m.kind = 'due' LIMIT @most::integer) AS q;

-- name: CountRatingFailures :one
SELECT count(*) AS pending, min(q.at)::timestamptz AS "oldest?"
FROM (
    SELECT s.rated_at AS at FROM subscriptions s WHERE s.rating_failure IS NOT NULL
    ORDER BY s.tenant_id, s.id LIMIT @most::integer
) AS q;

-- name: CountDrafts :one
-- Drafts have business time: under a test clock, as long before now as it is before that clock's.
SELECT count(*) AS pending, min(q.at)::timestamptz AS "oldest?"
FROM (
    SELECT i.closed_at + coalesce(clock_timestamp() - c.business_time, interval '0') AS at
    FROM invoices i LEFT JOIN test_clocks c ON c.tenant_id = i.tenant_id
    WHERE i.status = 'draft'
    ORDER BY i.finalize_at, i.tenant_id, i.id LIMIT @most::integer
) AS q;

-- name: CountBlockedDrafts :one
SELECT count(*) AS pending, min(q.at)::timestamptz AS "oldest?"
FROM (
    SELECT i.finalize_at + coalesce(clock_timestamp() - c.business_time, interval '0') AS at
    FROM invoices i LEFT JOIN test_clocks c ON c.tenant_id = i.tenant_id
    WHERE i.status = 'draft' AND i.blocked_reason IS NOT NULL
    LIMIT @most::integer
) AS q;

-- name: ListBlockedCounts :many
-- How many drafts each reason blocks.
SELECT q.reason::text AS reason, count(*) AS drafts
FROM (
    SELECT i.blocked_reason AS reason FROM invoices i WHERE i.status = 'draft' AND i.blocked_reason IS NOT NULL
    LIMIT @most::integer
) AS q
GROUP BY q.reason;

-- name: CountDeliveries :one
SELECT count(*) AS pending, min(q.at)::timestamptz AS "oldest?"
FROM (SELECT d.created_at AS at FROM webhook_deliveries d WHERE d.status = 'pending' LIMIT @most::integer) AS q;

-- name: CountDeadDeliveries :one
SELECT count(*) AS pending, min(q.at)::timestamptz AS "oldest?"
FROM (SELECT d.died_at AS at FROM webhook_dlq d LIMIT @most::integer) AS q;

-- name: ListLeases :many
-- Who owns what now; a lease that ran out is nobody's.
SELECT kind, shard, (CASE WHEN expires_at > clock_timestamp() THEN holder END)::uuid AS "holder?", term
FROM leases ORDER BY kind, shard LIMIT @most::integer;
