-- Invoice path, step 1: late usage of subscriptions that are over.

-- name: ListToAdjust :many
-- Those of the subscriptions that have usage which came after its invoice.
SELECT g.id::uuid AS id
FROM unnest(@tenant_ids::uuid[], @ids::uuid[]) AS g (tenant_id, id)
WHERE EXISTS (
    SELECT FROM usage_period_marks m
    WHERE m.tenant_id = g.tenant_id AND m.subscription_id = g.id AND m.kind = 'adjust'
);

-- name: Rest :exec
-- Nothing is due for them any more. For callers that hold the rows.
UPDATE subscriptions s SET next_due_at = NULL
FROM unnest(@tenant_ids::uuid[], @ids::uuid[]) AS g (tenant_id, id)
WHERE s.tenant_id = g.tenant_id AND s.id = g.id;

-- name: Wake :execrows
-- Ended subscriptions with usage to adjust that wait for nothing, and for which no draft stands ready: due now, in their
-- tenant's time, or when the backdating limit has passed since their end.
WITH marked AS MATERIALIZED (
    SELECT DISTINCT m.tenant_id, m.subscription_id FROM usage_period_marks m
    WHERE m.kind = 'adjust' AND (sqlc.narg(tenant_id)::uuid IS NULL OR m.tenant_id = sqlc.narg(tenant_id)::uuid)
), held AS (
    SELECT s.tenant_id, s.id, greatest(coalesce(c.business_time, now()), s.canceled_at + interval '35 days') AS due_at
    FROM marked m
    JOIN subscriptions s ON s.tenant_id = m.tenant_id AND s.id = m.subscription_id
    LEFT JOIN test_clocks c ON c.tenant_id = s.tenant_id
    WHERE s.status = 'canceled' AND s.next_due_at IS NULL
      AND NOT EXISTS (
          SELECT FROM billing_cycles b
          LEFT JOIN invoices i ON i.tenant_id = b.tenant_id AND i.subscription_id = b.subscription_id
              AND i.kind = b.kind AND i.boundary = b.boundary
          WHERE b.tenant_id = s.tenant_id AND b.subscription_id = s.id AND b.kind = 'adjustment'
            AND coalesce(i.status, 'draft') = 'draft'
      )
    ORDER BY s.tenant_id, s.id
    LIMIT @batch_max
    FOR NO KEY UPDATE OF s SKIP LOCKED
)
UPDATE subscriptions s SET next_due_at = held.due_at
FROM held
WHERE s.tenant_id = held.tenant_id AND s.id = held.id;
