-- Webhook path, its end: deliveries that are done and old are counted and deleted.

-- name: CloseOldDeliveries :one
-- A small step, endpoint by endpoint: rows, attempts and dead letters go, and their number is added to the closing
-- totals in the same statement. What still waits stays, however old. Answers how many went.
WITH old AS MATERIALIZED (
    SELECT d.tenant_id, d.webhook_id, d.event_id, d.nonce, d.status
    FROM webhooks w
    CROSS JOIN LATERAL (
        SELECT x.tenant_id, x.webhook_id, x.event_id, x.nonce, x.status FROM webhook_deliveries x
        WHERE x.tenant_id = w.tenant_id AND x.webhook_id = w.id AND x.event_id < @before_event::uuid
          AND x.finished_at < CASE WHEN x.status = 'dead' THEN @dead_before::timestamptz ELSE @before::timestamptz END
          AND x.status IN ('delivered', 'dead', 'canceled')
        ORDER BY x.event_id, x.nonce
        LIMIT @most::integer
        FOR NO KEY UPDATE SKIP LOCKED
    ) d
    ORDER BY d.tenant_id, d.webhook_id, d.event_id, d.nonce
    LIMIT @most::integer
), attempts AS (
    DELETE FROM webhook_delivery_attempts USING old
    WHERE webhook_delivery_attempts.tenant_id = old.tenant_id
      AND webhook_delivery_attempts.webhook_id = old.webhook_id
      AND webhook_delivery_attempts.event_id = old.event_id AND webhook_delivery_attempts.nonce = old.nonce
), letters AS (
    DELETE FROM webhook_dlq USING old
    WHERE webhook_dlq.tenant_id = old.tenant_id AND webhook_dlq.webhook_id = old.webhook_id
      AND webhook_dlq.event_id = old.event_id AND webhook_dlq.nonce = old.nonce
), gone AS (
    DELETE FROM webhook_deliveries USING old
    WHERE webhook_deliveries.tenant_id = old.tenant_id AND webhook_deliveries.webhook_id = old.webhook_id
      AND webhook_deliveries.event_id = old.event_id AND webhook_deliveries.nonce = old.nonce
    RETURNING webhook_deliveries.tenant_id, webhook_deliveries.webhook_id, webhook_deliveries.nonce,
              webhook_deliveries.status
), closed AS (
    INSERT INTO webhook_closed (tenant_id, webhook_id, status, count, resent)
    SELECT gone.tenant_id, gone.webhook_id, gone.status, count(*), count(*) FILTER (WHERE gone.nonce > 0)
    FROM gone GROUP BY gone.tenant_id, gone.webhook_id, gone.status
    ORDER BY gone.tenant_id, gone.webhook_id, gone.status
    ON CONFLICT (tenant_id, webhook_id, status) DO UPDATE
    SET count = webhook_closed.count + excluded.count, resent = webhook_closed.resent + excluded.resent
)
SELECT count(*)::bigint FROM gone;
