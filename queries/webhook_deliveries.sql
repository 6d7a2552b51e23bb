-- Webhook path, step 2: what is due, claims, results, and what a sender that died left behind.

-- name: ListRecentlyDue :many
-- The endpoints of these shards for which something became due in the window, and when last.
SELECT d.tenant_id, d.webhook_id, max(d.due_at)::timestamptz AS due_at
FROM webhook_deliveries d
WHERE d.status = 'pending' AND d.shard = ANY (@shards::smallint[]) AND d.due_at > @after AND d.due_at <= @now
GROUP BY d.tenant_id, d.webhook_id;

-- name: ListDueEndpoints :many
-- The endpoints of these shards for which anything is due, however long: one probe of the index each.
SELECT w.tenant_id, w.id AS webhook_id, d.due_at
FROM webhooks w
CROSS JOIN LATERAL (
    SELECT x.due_at FROM webhook_deliveries x
    WHERE x.webhook_id = w.id AND x.status = 'pending' AND x.due_at <= @now
    ORDER BY x.due_at LIMIT 1
) d
WHERE w.shard = ANY (@shards::smallint[]) AND w.status = 'enabled' AND w.id > @after
ORDER BY w.id
LIMIT @most::integer;

-- name: ClaimDeliveries :many
-- At most `room` rows of each endpoint, oldest first: counted as attempts, moved beyond the claim's end, and named in a
-- claim row per shard, before anything is posted. Only under the terms that hold. The commit is not waited for on the disk:
-- should the server crash at once, the deliveries are due again, as if the sender had died within its attempts.
WITH owned AS (
    SELECT g.shard, g.term, g.claim_id
    FROM unnest(@shards::smallint[], @terms::bigint[], @claim_ids::uuid[]) AS g (shard, term, claim_id)
    JOIN leases l ON l.kind = 'sender' AND l.shard = g.shard AND l.term = g.term
    CROSS JOIN set_config('synchronous_commit', 'off', true)
), due AS MATERIALIZED (
    -- Nothing but the endpoint, the state and the time in here, so that the index alone gives the order and the limit.
    SELECT d.tenant_id, d.webhook_id, d.event_id, d.nonce, d.shard
    FROM unnest(@webhook_ids::uuid[], @rooms::integer[]) AS w (webhook_id, room)
    CROSS JOIN LATERAL (
        SELECT x.tenant_id, x.webhook_id, x.event_id, x.nonce, x.shard FROM webhook_deliveries x
        WHERE x.webhook_id = w.webhook_id AND x.status = 'pending' AND x.due_at <= @now
        ORDER BY x.due_at, x.event_id
        LIMIT w.room
        FOR NO KEY UPDATE SKIP LOCKED
    ) d
), claimed AS (
    UPDATE webhook_deliveries SET attempts = webhook_deliveries.attempts + 1, due_at = @retry_at::timestamptz
    FROM due JOIN owned ON owned.shard = due.shard
    WHERE webhook_deliveries.tenant_id = due.tenant_id AND webhook_deliveries.webhook_id = due.webhook_id
      AND webhook_deliveries.event_id = due.event_id AND webhook_deliveries.nonce = due.nonce
    RETURNING webhook_deliveries.tenant_id, webhook_deliveries.webhook_id, webhook_deliveries.event_id,
              webhook_deliveries.nonce, webhook_deliveries.shard, webhook_deliveries.attempts,
              webhook_deliveries.forgiven
), noted AS (
    INSERT INTO webhook_claims (
        id, shard, term, claimed_at, expires_at, tenant_ids, webhook_ids, event_ids, nonces, attempt_numbers)
    SELECT owned.claim_id, owned.shard, owned.term, @now, @expires_at::timestamptz,
           array_agg(claimed.tenant_id), array_agg(claimed.webhook_id), array_agg(claimed.event_id),
           array_agg(claimed.nonce), array_agg(claimed.attempts)
    FROM claimed JOIN owned ON owned.shard = claimed.shard
    GROUP BY owned.claim_id, owned.shard, owned.term
)
SELECT claimed.tenant_id, claimed.webhook_id, claimed.event_id, claimed.nonce, claimed.shard, claimed.attempts,
       claimed.forgiven, w.url, w.headers, w.payload, w.rate_per_second, s.ciphertexts::bytea[] AS ciphertexts,
       e.envelope AS "envelope?"
FROM claimed
JOIN webhooks w ON w.tenant_id = claimed.tenant_id AND w.id = claimed.webhook_id
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(k.ciphertext ORDER BY k.created_at DESC, k.id DESC), ARRAY[]::bytea[]) AS ciphertexts FROM webhook_secrets k
    WHERE k.tenant_id = claimed.tenant_id AND k.webhook_id = claimed.webhook_id
      AND (k.expires_at IS NULL OR k.expires_at > @now::timestamptz)
) s
LEFT JOIN LATERAL (
    SELECT l.envelope FROM billing_events l WHERE l.id = claimed.event_id LIMIT 1
) e ON true;

-- name: RecordAttempts :many
-- Completed attempts, and what they make of their deliveries. The attempt number is the guard: the result of an attempt
-- that was given up meanwhile corrects its own row ('lost' until then) and moves nothing that a later one has claimed.
-- What `held` has locked and checked, `moved` finds by the primary key alone.
-- An attempt that is forgiven is not counted by the schedule. Answers the rows that moved.
WITH given AS (
    SELECT g.tenant_id, g.webhook_id, g.event_id, g.nonce, g.attempt_number, g.started_at, g.duration_ms, g.outcome,
           g.response_status, g.response_head, g.error, g.address, g.request_headers, g.forgiven, g.status, g.due_at
    FROM unnest(
        @tenant_ids::uuid[], @webhook_ids::uuid[], @event_ids::uuid[], @nonces::smallint[], @attempt_numbers::smallint[],
        @started_ats::timestamptz[], @durations_ms::integer[], @outcomes::text[], sqlc.narg(response_statuses)::smallint[],
        @response_heads::bytea[], @errors::text[], @addresses::text[], @request_headers::text[], @forgiven::smallint[],
        @statuses::text[], @due_ats::timestamptz[]
    ) AS g (tenant_id, webhook_id, event_id, nonce, attempt_number, started_at, duration_ms, outcome, response_status,
            response_head, error, address, request_headers, forgiven, status, due_at)
), written AS (
    INSERT INTO webhook_delivery_attempts (
        tenant_id, webhook_id, event_id, nonce, attempt_number, started_at, duration_ms, outcome, response_status,
        response_head, error, address, request_headers)
    SELECT given.tenant_id, given.webhook_id, given.event_id, given.nonce, given.attempt_number, given.started_at,
           given.duration_ms, given.outcome, given.response_status, given.response_head, given.error, given.address,
           given.request_headers
    FROM given ORDER BY given.tenant_id, given.webhook_id, given.event_id, given.nonce, given.attempt_number
    ON CONFLICT (tenant_id, webhook_id, event_id, nonce, attempt_number) DO UPDATE
    SET started_at = excluded.started_at, duration_ms = excluded.duration_ms, outcome = excluded.outcome,
        response_status = excluded.response_status, response_head = excluded.response_head, error = excluded.error,
        address = excluded.address, request_headers = excluded.request_headers
    WHERE webhook_delivery_attempts.outcome = 'lost'
), held AS MATERIALIZED (
    SELECT d.tenant_id, d.webhook_id, d.event_id, d.nonce
    FROM webhook_deliveries d
    JOIN given g ON d.tenant_id = g.tenant_id AND d.webhook_id = g.webhook_id AND d.event_id = g.event_id
                AND d.nonce = g.nonce
    -- Pending, said so that the index of pending rows does not offer itself: it would be walked for every row.
    -- A parked one was disabled while it was posted: if it arrived it is delivered, or else it stays parked.
    WHERE d.attempts = g.attempt_number AND d.status NOT IN ('delivered', 'dead', 'canceled')
      AND (d.status <> 'parked' OR g.status = 'delivered')
    ORDER BY d.tenant_id, d.webhook_id, d.event_id, d.nonce
    FOR NO KEY UPDATE OF d
), moved AS (
    UPDATE webhook_deliveries
    SET status = g.status, due_at = g.due_at, forgiven = webhook_deliveries.forgiven + g.forgiven,
        finished_at = CASE WHEN g.status = 'pending' THEN NULL ELSE @now::timestamptz END
    FROM held
    JOIN given g ON g.tenant_id = held.tenant_id AND g.webhook_id = held.webhook_id AND g.event_id = held.event_id
                AND g.nonce = held.nonce
    WHERE webhook_deliveries.tenant_id = held.tenant_id AND webhook_deliveries.webhook_id = held.webhook_id
      AND webhook_deliveries.event_id = held.event_id AND webhook_deliveries.nonce = held.nonce
      AND webhook_deliveries.attempts = g.attempt_number
    RETURNING webhook_deliveries.tenant_id, webhook_deliveries.webhook_id, webhook_deliveries.event_id,
              webhook_deliveries.nonce, webhook_deliveries.attempts, webhook_deliveries.status,
              webhook_deliveries.subject, g.error
), dead AS (
    INSERT INTO webhook_dlq (tenant_id, webhook_id, event_id, nonce, attempts, last_error, died_at)
    SELECT moved.tenant_id, moved.webhook_id, moved.event_id, moved.nonce, moved.attempts, moved.error, @now::timestamptz
    FROM moved WHERE moved.status = 'dead'
    ORDER BY moved.tenant_id, moved.webhook_id, moved.event_id, moved.nonce
    ON CONFLICT DO NOTHING
), closed AS (
    DELETE FROM webhook_claims WHERE webhook_claims.id = ANY (@closed_claims::uuid[])
)
SELECT moved.tenant_id, moved.webhook_id, moved.event_id, moved.nonce, moved.attempts, moved.status, moved.subject,
       moved.error::text AS error
FROM moved;

-- name: RecoverClaims :many
-- What is left of the claims of earlier terms, and of claims whose results never came: attempts that nobody knows the
-- end of. They are written as lost; the deliveries are due again, or dead if that was their last attempt. One row tells
-- how many claims and deliveries, again with each delivery that is dead.
WITH owned AS (
    SELECT g.shard, g.term FROM unnest(@shards::smallint[], @terms::bigint[]) AS g (shard, term)
    JOIN leases l ON l.kind = 'sender' AND l.shard = g.shard AND l.term = g.term
), old AS MATERIALIZED (
    SELECT c.* FROM webhook_claims c JOIN owned o ON o.shard = c.shard
    WHERE c.term < o.term OR c.expires_at < @now
    ORDER BY c.id
    LIMIT @most::integer
    FOR NO KEY UPDATE OF c SKIP LOCKED
), named AS (
    SELECT n.tenant_id, n.webhook_id, n.event_id, n.nonce, n.attempt_number, old.claimed_at
    FROM old
    CROSS JOIN LATERAL unnest(old.tenant_ids, old.webhook_ids, old.event_ids, old.nonces, old.attempt_numbers)
        AS n (tenant_id, webhook_id, event_id, nonce, attempt_number)
    WHERE NOT EXISTS (
        SELECT 1 FROM webhook_delivery_attempts a
        WHERE a.tenant_id = n.tenant_id AND a.webhook_id = n.webhook_id AND a.event_id = n.event_id
          AND a.nonce = n.nonce AND a.attempt_number = n.attempt_number)
), lost AS (
    INSERT INTO webhook_delivery_attempts (
        tenant_id, webhook_id, event_id, nonce, attempt_number, started_at, duration_ms, outcome, error)
    SELECT named.tenant_id, named.webhook_id, named.event_id, named.nonce, named.attempt_number, named.claimed_at,
           0, 'lost', @error::text
    FROM named ORDER BY named.tenant_id, named.webhook_id, named.event_id, named.nonce, named.attempt_number
    ON CONFLICT DO NOTHING
), held AS MATERIALIZED (
    SELECT d.tenant_id, d.webhook_id, d.event_id, d.nonce
    FROM webhook_deliveries d
    JOIN named n ON d.tenant_id = n.tenant_id AND d.webhook_id = n.webhook_id AND d.event_id = n.event_id
                AND d.nonce = n.nonce
    WHERE d.attempts = n.attempt_number AND d.status NOT IN ('delivered', 'parked', 'dead', 'canceled')
    ORDER BY d.tenant_id, d.webhook_id, d.event_id, d.nonce
    FOR NO KEY UPDATE OF d
), moved AS (
    UPDATE webhook_deliveries
    SET due_at = @now::timestamptz,
        status = CASE WHEN webhook_deliveries.attempts - webhook_deliveries.forgiven >= @attempts_max::integer
                      THEN 'dead' ELSE 'pending' END,
        finished_at = CASE WHEN webhook_deliveries.attempts - webhook_deliveries.forgiven >= @attempts_max::integer
                           THEN @now::timestamptz END
    FROM held
    JOIN named n ON n.tenant_id = held.tenant_id AND n.webhook_id = held.webhook_id AND n.event_id = held.event_id
                AND n.nonce = held.nonce
    WHERE webhook_deliveries.tenant_id = held.tenant_id AND webhook_deliveries.webhook_id = held.webhook_id
      AND webhook_deliveries.event_id = held.event_id AND webhook_deliveries.nonce = held.nonce
      AND webhook_deliveries.attempts = n.attempt_number
    RETURNING webhook_deliveries.tenant_id, webhook_deliveries.webhook_id, webhook_deliveries.event_id,
              webhook_deliveries.nonce, webhook_deliveries.attempts, webhook_deliveries.status,
              webhook_deliveries.subject
), dead AS (
    INSERT INTO webhook_dlq (tenant_id, webhook_id, event_id, nonce, attempts, last_error, died_at)
    SELECT moved.tenant_id, moved.webhook_id, moved.event_id, moved.nonce, moved.attempts, @error::text,
           @now::timestamptz
    FROM moved WHERE moved.status = 'dead'
    ORDER BY moved.tenant_id, moved.webhook_id, moved.event_id, moved.nonce
    ON CONFLICT DO NOTHING
), closed AS (
    DELETE FROM webhook_claims USING old WHERE webhook_claims.id = old.id
)
SELECT (SELECT count(*) FROM old)::bigint AS claims, (SELECT count(*) FROM moved)::bigint AS deliveries,
       m.tenant_id AS "tenant_id?", m.webhook_id AS "webhook_id?", m.event_id AS "event_id?", m.nonce AS "nonce?",
       m.attempts AS "attempts?", m.subject AS "subject?"
FROM (VALUES (1)) AS always (one)
LEFT JOIN moved m ON m.status = 'dead';
