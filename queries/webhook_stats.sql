-- Webhook path, beside it: how well endpoints are served, from their newest deliveries.

-- name: ListEndpointStats :many
-- Of the deliveries of events since the first id, at most `most` of each endpoint, the newest.
SELECT w.id AS webhook_id, w.status, w.disabled_reason, w.rate_per_second,
       d.deliveries, d.tried, d.at_once, d.delivered, d.p50_ms, d.p95_ms, d.p99_ms,
       u.undelivered, u.oldest AS "oldest?",
       h.failures AS "failures?", h.failing_since AS "failing_since?", h.open_until AS "open_until?",
       h.probe_at AS "probe_at?"
FROM webhooks w
CROSS JOIN LATERAL (
    SELECT count(*)::bigint AS deliveries,
           count(*) FILTER (WHERE x.attempts > x.forgiven)::bigint AS tried,
           count(*) FILTER (WHERE x.status = 'delivered' AND x.attempts - x.forgiven <= 1)::bigint AS at_once,
           count(*) FILTER (WHERE x.status = 'delivered')::bigint AS delivered,
           coalesce(percentile_disc(0.5) WITHIN GROUP (ORDER BY x.took_ms), 0)::bigint AS p50_ms,
           coalesce(percentile_disc(0.95) WITHIN GROUP (ORDER BY x.took_ms), 0)::bigint AS p95_ms,
           coalesce(percentile_disc(0.99) WITHIN GROUP (ORDER BY x.took_ms), 0)::bigint AS p99_ms
    FROM (
        SELECT y.status, y.attempts, y.forgiven,
               CASE WHEN y.status = 'delivered'
                    THEN (extract(epoch FROM y.finished_at - y.created_at) * 1000)::bigint END AS took_ms
        FROM webhook_deliveries y
        WHERE y.tenant_id = w.tenant_id AND y.webhook_id = w.id AND y.event_id >= @first_event::uuid
        ORDER BY y.event_id DESC, y.nonce DESC
        LIMIT @most::integer
    ) x
) d
CROSS JOIN LATERAL (
    SELECT count(*)::bigint AS undelivered, min(z.created_at)::timestamptz AS oldest
    FROM (
        (SELECT p.created_at FROM webhook_deliveries p
         WHERE p.webhook_id = w.id AND p.tenant_id = w.tenant_id AND p.status = 'pending'
         LIMIT @most::integer)
        UNION ALL
        (SELECT k.created_at FROM webhook_deliveries k
         WHERE k.tenant_id = w.tenant_id AND k.webhook_id = w.id AND k.status = 'parked'
         ORDER BY k.event_id LIMIT @most::integer)
    ) z
) u
LEFT JOIN webhook_health h ON h.tenant_id = w.tenant_id AND h.webhook_id = w.id
WHERE w.tenant_id = @tenant_id AND w.status <> 'deleted' AND w.id > @after::uuid
  AND (sqlc.narg(webhook_id)::uuid IS NULL OR w.id = sqlc.narg(webhook_id)::uuid)
ORDER BY w.id
LIMIT @endpoints_max::integer;

-- name: GetTenantStats :one
-- The same over all endpoints of the tenant.
SELECT count(*)::bigint AS deliveries,
       count(*) FILTER (WHERE x.attempts > x.forgiven)::bigint AS tried,
       count(*) FILTER (WHERE x.status = 'delivered' AND x.attempts - x.forgiven <= 1)::bigint AS at_once,
       count(*) FILTER (WHERE x.status = 'delivered')::bigint AS delivered,
       coalesce(percentile_disc(0.5) WITHIN GROUP (ORDER BY x.took_ms), 0)::bigint AS p50_ms,
       coalesce(percentile_disc(0.95) WITHIN GROUP (ORDER BY x.took_ms), 0)::bigint AS p95_ms,
       coalesce(percentile_disc(0.99) WITHIN GROUP (ORDER BY x.took_ms), 0)::bigint AS p99_ms
FROM webhooks w
CROSS JOIN LATERAL (
    SELECT y.status, y.attempts, y.forgiven,
           CASE WHEN y.status = 'delivered'
                THEN (extract(epoch FROM y.finished_at - y.created_at) * 1000)::bigint END AS took_ms
    FROM webhook_deliveries y
    WHERE y.tenant_id = w.tenant_id AND y.webhook_id = w.id AND y.event_id >= @first_event::uuid
    ORDER BY y.event_id DESC, y.nonce DESC
    LIMIT @most::integer
) x
WHERE w.tenant_id = @tenant_id;
