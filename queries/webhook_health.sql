-- Webhook path, after step 2: endpoints that have had nothing but failures, and the probes of those disabled for it.

-- name: NoteFailing :many
-- Since when each has been failing: from its first failure on, whoever saw it.
INSERT INTO webhook_health (tenant_id, webhook_id, failing_since, failures, open_until)
SELECT g.tenant_id, g.webhook_id, g.failing_since, g.failures, g.open_until
FROM unnest(@tenant_ids::uuid[], @webhook_ids::uuid[], @failing_sinces::timestamptz[], @failures::integer[],
            sqlc.narg(open_untils)::timestamptz[]) AS g (tenant_id, webhook_id, failing_since, failures, open_until)
ORDER BY g.tenant_id, g.webhook_id
ON CONFLICT (tenant_id, webhook_id) DO UPDATE SET failures = excluded.failures, open_until = excluded.open_until
RETURNING webhook_health.webhook_id, webhook_health.failing_since;

-- name: NoteHealthy :exec
WITH held AS MATERIALIZED (
    SELECT h.tenant_id, h.webhook_id FROM webhook_health h
    JOIN unnest(@tenant_ids::uuid[], @webhook_ids::uuid[]) AS g (tenant_id, webhook_id)
        ON g.tenant_id = h.tenant_id AND g.webhook_id = h.webhook_id
    ORDER BY h.tenant_id, h.webhook_id
    FOR NO KEY UPDATE OF h
)
DELETE FROM webhook_health USING held
WHERE webhook_health.tenant_id = held.tenant_id AND webhook_health.webhook_id = held.webhook_id;

-- name: ForgetHealth :exec
DELETE FROM webhook_health WHERE tenant_id = @tenant_id AND webhook_id = @webhook_id;

-- name: GetHealth :one
SELECT * FROM webhook_health WHERE tenant_id = @tenant_id AND webhook_id = @webhook_id;

-- name: ProbeFrom :exec
-- From now on it is tried with a parked delivery now and then.
UPDATE webhook_health SET probe_at = @probe_at::timestamptz, open_until = NULL
WHERE tenant_id = @tenant_id AND webhook_id = @webhook_id;

-- name: ClaimProbes :many
-- The oldest parked delivery of each endpoint that is disabled for failing and whose probe is due, claimed as
-- ClaimDeliveries does. It stays parked, and the schedule does not count the attempt.
WITH owned AS (
    SELECT g.shard, g.term, g.claim_id
    FROM unnest(@shards::smallint[], @terms::bigint[], @claim_ids::uuid[]) AS g (shard, term, claim_id)
    JOIN leases l ON l.kind = 'sender' AND l.shard = g.shard AND l.term = g.term
), due AS MATERIALIZED (
    SELECT h.tenant_id, h.webhook_id FROM webhook_health h
    JOIN webhooks w ON w.tenant_id = h.tenant_id AND w.id = h.webhook_id
    JOIN owned o ON o.shard = w.shard
    WHERE h.probe_at <= @now::timestamptz AND w.status = 'disabled' AND w.disabled_reason = 'failing'
    ORDER BY h.probe_at
    LIMIT @most::integer
    FOR NO KEY UPDATE OF h SKIP LOCKED
), later AS (
    UPDATE webhook_health SET probe_at = @probe_at::timestamptz FROM due
    WHERE webhook_health.tenant_id = due.tenant_id AND webhook_health.webhook_id = due.webhook_id
), chosen AS MATERIALIZED (
    SELECT d.tenant_id, d.webhook_id, d.event_id, d.nonce
    FROM due
    CROSS JOIN LATERAL (
        SELECT x.tenant_id, x.webhook_id, x.event_id, x.nonce FROM webhook_deliveries x
        WHERE x.tenant_id = due.tenant_id AND x.webhook_id = due.webhook_id AND x.status = 'parked'
        ORDER BY x.event_id, x.nonce
        LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED
    ) d
), claimed AS (
    UPDATE webhook_deliveries
    SET attempts = webhook_deliveries.attempts + 1, forgiven = webhook_deliveries.forgiven + 1
    FROM chosen
    WHERE webhook_deliveries.tenant_id = chosen.tenant_id AND webhook_deliveries.webhook_id = chosen.webhook_id
      AND webhook_deliveries.event_id = chosen.event_id AND webhook_deliveries.nonce = chosen.nonce
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
    SELECT coalesce(array_agg(k.ciphertext ORDER BY k.created_at DESC, k.id DESC), ARRAY[]::bytea[]) AS ciphertexts
    FROM webhook_secrets k
    WHERE k.tenant_id = claimed.tenant_id AND k.webhook_id = claimed.webhook_id
      AND (k.expires_at IS NULL OR k.expires_at > @now::timestamptz)
) s
LEFT JOIN LATERAL (
    SELECT l.envelope FROM billing_events l WHERE l.id = claimed.event_id LIMIT 1
) e ON true;
