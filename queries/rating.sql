-- Usage path, step 3: what the folds marked as due is rated. Lock order: subscription, usage period.

-- name: WalkDueSubscriptions :many
-- The next subscriptions with due marks, after a given one: one probe of the index each, however many marks they have.
WITH RECURSIVE walk AS (
    (SELECT m.tenant_id, m.subscription_id, 1 AS place
     FROM usage_period_marks m
     WHERE m.kind = 'due' AND (m.tenant_id, m.subscription_id) > (@after_tenant_id::uuid, @after_subscription_id::uuid)
     ORDER BY m.tenant_id, m.subscription_id
     LIMIT 1)
    UNION ALL
    SELECT following.tenant_id, following.subscription_id, walk.place + 1
    FROM walk
    CROSS JOIN LATERAL (
        SELECT m.tenant_id, m.subscription_id
        FROM usage_period_marks m
        WHERE m.kind = 'due' AND (m.tenant_id, m.subscription_id) > (walk.tenant_id, walk.subscription_id)
        ORDER BY m.tenant_id, m.subscription_id
        LIMIT 1
    ) AS following
    WHERE walk.place < @walk_max::integer
)
SELECT walk.tenant_id::uuid AS tenant_id, walk.subscription_id::uuid AS subscription_id FROM walk ORDER BY walk.place;

-- name: ClaimSubscriptionsToRate :many
-- Those of them whose turn has come and that nobody holds: at most once per interval, which a test clock on its way
-- does not wait for, and after a failure only when its pause is over.
SELECT s.tenant_id, s.id, s.currency, s.rating_attempts
FROM subscriptions s
JOIN unnest(@tenant_ids::uuid[], @ids::uuid[]) AS k (tenant_id, id) ON s.tenant_id = k.tenant_id AND s.id = k.id
WHERE (s.rating_retry_at IS NULL OR s.rating_retry_at <= @now::timestamptz)
  AND (
      s.rated_at IS NULL OR s.rated_at <= @rated_until::timestamptz
      OR EXISTS (SELECT FROM test_clocks c WHERE c.tenant_id = s.tenant_id AND c.status = 'advancing')
  )
ORDER BY s.tenant_id, s.id
LIMIT @batch_max
FOR NO KEY UPDATE OF s SKIP LOCKED;

-- name: ListDueMarks :many
-- Read before the buckets, in a statement of its own: a mark that is seen has its records in the buckets that are read
-- afterwards, and one that comes later stays.
SELECT m.tenant_id, m.id, m.subscription_id, m.item_id, m.period_start, m.event_id, m.correlation_id
FROM usage_period_marks m
JOIN unnest(@tenant_ids::uuid[], @subscription_ids::uuid[]) AS k (tenant_id, subscription_id)
    ON m.tenant_id = k.tenant_id AND m.subscription_id = k.subscription_id
WHERE m.kind = 'due'
ORDER BY m.id
LIMIT @marks_max;

-- name: ListPeriodsToRate :many
-- Under the subscription's lock, which finalization takes as well: so a status that is read here stands.
SELECT p.*
FROM unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[]) AS k (tenant_id, item_id, period_start)
JOIN usage_periods p
    ON p.tenant_id = k.tenant_id AND p.item_id = k.item_id AND p.period_start = k.period_start
ORDER BY p.tenant_id, p.item_id, p.period_start;

-- name: ListRunningCharges :many
-- What each usage period that is not billed costs as of its last rating.
SELECT c.tenant_id, c.subscription_id, c.item_id, c.period_start, sum(c.amount)::bigint AS amount
FROM unnest(@tenant_ids::uuid[], @subscription_ids::uuid[]) AS k (tenant_id, subscription_id)
JOIN charges c ON c.tenant_id = k.tenant_id AND c.subscription_id = k.subscription_id
JOIN usage_periods p
    ON p.tenant_id = c.tenant_id AND p.item_id = c.item_id AND p.period_start = c.period_start
WHERE p.status <> 'billed'
GROUP BY c.tenant_id, c.subscription_id, c.item_id, c.period_start;

-- name: UpsertCharges :exec
INSERT INTO charges (
    tenant_id, item_id, period_start, kind, group_key, subscription_id, measured, quantity, amount, currency, rated_at)
SELECT g.tenant_id, g.item_id, g.period_start, g.kind, g.group_key, g.subscription_id, g.measured::numeric,
       g.quantity::numeric, g.amount, g.currency, @now::timestamptz
FROM unnest(
    @tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[], @kinds::text[], @group_keys::text[],
    @subscription_ids::uuid[], @measured::text[], @quantities::text[], @amounts::bigint[], @currencies::text[]
) AS g (tenant_id, item_id, period_start, kind, group_key, subscription_id, measured, quantity, amount, currency)
ORDER BY g.tenant_id, g.item_id, g.period_start, g.kind, g.group_key
ON CONFLICT (tenant_id, item_id, period_start, kind, group_key) DO UPDATE
SET measured = excluded.measured, quantity = excluded.quantity, amount = excluded.amount, currency = excluded.currency,
    rated_at = excluded.rated_at;

-- name: DeleteStaleCharges :exec
-- Of the usage periods that were rated at @now, the charges that were not: groups that have no record any more. For
-- callers that hold the subscriptions' locks.
DELETE FROM charges
USING unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[]) AS k (tenant_id, item_id, period_start)
WHERE charges.tenant_id = k.tenant_id AND charges.item_id = k.item_id AND charges.period_start = k.period_start
  AND charges.rated_at <> @now::timestamptz;

-- name: MoveUsagePeriods :exec
-- By the lifecycle's table. Folds that hold a period are waited for; only its first rating moves it, so this is rare.
WITH held AS (
    SELECT p.tenant_id, p.item_id, p.period_start
    FROM usage_periods p
    JOIN unnest(@tenant_ids::uuid[], @item_ids::uuid[], @period_starts::timestamptz[])
        AS k (tenant_id, item_id, period_start)
        ON p.tenant_id = k.tenant_id AND p.item_id = k.item_id AND p.period_start = k.period_start
    WHERE p.status = ANY (@from_statuses::text[])
    ORDER BY p.tenant_id, p.item_id, p.period_start
    FOR NO KEY UPDATE OF p
)
UPDATE usage_periods SET status = @to_status
FROM held
WHERE usage_periods.tenant_id = held.tenant_id AND usage_periods.item_id = held.item_id
  AND usage_periods.period_start = held.period_start AND usage_periods.status = ANY (@from_statuses::text[]);

-- name: FinishRating :many
-- For callers that hold the rows' locks. Two versions each: one for usage.rated, the next for rating.completed.
UPDATE subscriptions
SET version = version + 2, rated_at = @now::timestamptz, rating_failure = NULL, rating_error = NULL,
    rating_attempts = 0, rating_retry_at = NULL
FROM unnest(@tenant_ids::uuid[], @ids::uuid[]) AS k (tenant_id, id)
WHERE subscriptions.tenant_id = k.tenant_id AND subscriptions.id = k.id
RETURNING subscriptions.id, subscriptions.version;

-- name: NoteRatings :exec
-- For callers that hold the rows' locks: the event that told of the rating, for the links of what is billed by it.
UPDATE subscriptions
SET rated_event_id = k.event_id, rated_correlation_id = k.correlation_id
FROM unnest(@tenant_ids::uuid[], @ids::uuid[], @event_ids::uuid[], @correlation_ids::uuid[])
    AS k (tenant_id, id, event_id, correlation_id)
WHERE subscriptions.tenant_id = k.tenant_id AND subscriptions.id = k.id;

-- name: FailRating :many
-- For callers that hold the rows' locks.
UPDATE subscriptions
SET version = version + 1, rating_failure = k.failure, rating_error = k.error, rating_attempts = rating_attempts + 1,
    rating_retry_at = k.retry_at
FROM unnest(@tenant_ids::uuid[], @ids::uuid[], @failures::text[], @errors::text[], @retry_ats::timestamptz[])
    AS k (tenant_id, id, failure, error, retry_at)
WHERE subscriptions.tenant_id = k.tenant_id AND subscriptions.id = k.id
RETURNING subscriptions.id, subscriptions.version;

-- name: DeleteDueMarks :exec
-- Those that were seen, no others. For callers that hold the subscriptions' locks.
DELETE FROM usage_period_marks
USING unnest(@tenant_ids::uuid[], @ids::bigint[]) AS k (tenant_id, id)
WHERE usage_period_marks.tenant_id = k.tenant_id AND usage_period_marks.id = k.id;

-- name: ListCharges :many
-- The running charges of a subscription: of its usage periods that are not billed, oldest first.
SELECT c.item_id, p.meter_id, p.price_id, p.period_start, p.period_end, c.kind, c.group_key, m.group_by, c.quantity,
       c.amount, c.currency, c.rated_at
FROM charges c
JOIN usage_periods p
    ON p.tenant_id = c.tenant_id AND p.item_id = c.item_id AND p.period_start = c.period_start
JOIN meters m ON m.tenant_id = p.tenant_id AND m.id = p.meter_id
WHERE c.tenant_id = @tenant_id AND c.subscription_id = @subscription_id AND p.status <> 'billed'
ORDER BY p.period_start, c.item_id, c.kind DESC, c.group_key
LIMIT @rows_max;

-- name: ListRatingFailures :many
-- The subscriptions whose last rating failed, of one tenant or (null, as a worker) of all, behind a key.
SELECT s.tenant_id, s.id, s.external_id, s.rating_failure::text AS rating_failure,
       coalesce(s.rating_error, '')::text AS rating_error, s.rating_attempts, s.rating_retry_at
FROM subscriptions s
WHERE s.rating_failure IS NOT NULL
  AND (sqlc.narg(tenant_id)::uuid IS NULL OR s.tenant_id = sqlc.narg(tenant_id)::uuid)
  AND (s.tenant_id, s.id) > (@after_tenant_id::uuid, @after_id::uuid)
ORDER BY s.tenant_id, s.id
LIMIT @page_max;

-- name: RetryRating :one
-- Its turn is now, whatever pause it has. No row when there is no such subscription.
UPDATE subscriptions SET rating_retry_at = NULL, rated_at = NULL
WHERE tenant_id = @tenant_id AND id = @id
RETURNING tenant_id, id, external_id, coalesce(rating_failure, '')::text AS rating_failure,
          coalesce(rating_error, '')::text AS rating_error, rating_attempts, rating_retry_at;

-- name: RetryBlockedDrafts :exec
-- Drafts that wait since the rating failed are looked at again. For callers that hold the subscription's lock.
WITH held AS (
    SELECT i.id FROM invoices i
    WHERE i.tenant_id = @tenant_id AND i.subscription_id = @subscription_id AND i.status = 'draft'
      AND i.blocked_reason = 'RATING_FAILED'
    ORDER BY i.id
    FOR NO KEY UPDATE OF i
)
UPDATE invoices SET retry_at = NULL
FROM held
WHERE invoices.tenant_id = @tenant_id AND invoices.id = held.id;

-- name: FindInvoiceOfPeriod :one
-- The invoice that counts for the key of a usage period: the one that billed it, once it is final.
SELECT i.id FROM invoices i
WHERE i.tenant_id = @tenant_id AND i.subscription_id = @subscription_id AND i.kind = @kind AND i.boundary = @boundary
  AND (i.status <> 'void' OR i.waived);

-- name: ListTenantsWithLevels :many
-- Of these tenants, those that have a meter of levels at all.
SELECT DISTINCT m.tenant_id FROM meters m
WHERE m.tenant_id = ANY (@tenant_ids::uuid[]) AND m.aggregation = 'weighted_sum';

-- name: MarkStandingLevels :exec
-- A level that stands when a usage period begins costs something in it, though no record says so: the period is due.
INSERT INTO usage_period_marks (tenant_id, item_id, period_start, subscription_id, kind, event_id, correlation_id)
SELECT p.tenant_id, p.item_id, p.period_start, p.subscription_id, 'due', g.event_id, g.correlation_id
FROM unnest(
    @tenant_ids::uuid[], @subscription_ids::uuid[], @begins_ats::timestamptz[], @event_ids::uuid[],
    @correlation_ids::uuid[]
) AS g (tenant_id, subscription_id, begins_at, event_id, correlation_id)
JOIN subscription_items i ON i.tenant_id = g.tenant_id AND i.subscription_id = g.subscription_id
JOIN meters m ON m.tenant_id = i.tenant_id AND m.id = i.meter_id AND m.aggregation = 'weighted_sum'
JOIN usage_periods p ON p.tenant_id = i.tenant_id AND p.item_id = i.id AND p.period_start = g.begins_at
WHERE p.status <> 'billed' AND EXISTS (
    SELECT FROM usage_buckets b
    WHERE b.tenant_id = p.tenant_id AND b.item_id = p.item_id AND b.period_start < p.period_start AND b.records > 0
)
ORDER BY p.tenant_id, p.item_id, p.period_start;

-- name: MarkCutUsage :exec
-- Usage periods that a change or an end has cut at @cut_at cost another part of minimums, maximums and levels: those that
-- have been rated are due again.
INSERT INTO usage_period_marks (tenant_id, item_id, period_start, subscription_id, kind, event_id, correlation_id)
SELECT p.tenant_id, p.item_id, p.period_start, p.subscription_id, 'due', @event_id::uuid, @correlation_id::uuid
FROM usage_periods p
WHERE p.tenant_id = @tenant_id AND p.subscription_id = @subscription_id AND p.period_end = @cut_at::timestamptz
  AND p.status <> 'billed' AND EXISTS (
      SELECT FROM charges c
      WHERE c.tenant_id = p.tenant_id AND c.item_id = p.item_id AND c.period_start = p.period_start
  )
ORDER BY p.tenant_id, p.item_id, p.period_start;
