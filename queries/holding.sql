-- Router: what holds an event back.

-- name: ListHolding :many
-- Who has something of these resources waiting or dead, and whether a pause parked some of it; with the event's id where
-- it is one of `event_ids` itself. Rows without a resource are the consumers and tenants that are paused.
SELECT h.consumer AS "consumer?", h.tenant_id AS "tenant_id?", h.resource AS "resource?",
       (CASE WHEN h.event_id = ANY (@event_ids::uuid[]) THEN h.event_id END)::uuid AS "event_id?",
       bool_or(h.paused)::boolean AS paused
FROM (
    SELECT w.consumer, w.tenant_id, w.resource, w.event_id, w.paused FROM router_waiting w
    WHERE w.resource = ANY (@resources::text[])
    UNION ALL
    SELECT d.consumer, d.tenant_id, d.resource, d.event_id, false FROM router_dead_letters d
    WHERE d.resource = ANY (@resources::text[])
    UNION ALL
    SELECT p.consumer, p.tenant_id, NULL, NULL, true FROM pauses p WHERE p.shard IS NULL AND p.resumed_at IS NULL
) AS h
GROUP BY 1, 2, 3, 4;

-- name: ListFollowers :many
-- What waits behind these heads and may be tried with them: for an ordered consumer nothing behind an event that stands
-- under `*` or is dead; for the others, what a pause parked with the head.
SELECT f.* FROM unnest(
    @consumers::text[], @tenant_ids::uuid[], @resources::text[], @resource_versions::bigint[], @event_ids::uuid[],
    @replay_ids::uuid[], @ordered::boolean[]
) AS h (consumer, tenant_id, resource, resource_version, event_id, replay_id, ordered)
CROSS JOIN LATERAL (
    SELECT w.* FROM router_waiting w
    WHERE w.consumer = h.consumer AND w.resource = h.resource AND w.tenant_id = h.tenant_id
      AND (w.resource_version, w.event_id, w.replay_id) > (h.resource_version, h.event_id, h.replay_id)
      AND (h.ordered OR w.paused)
      AND NOT (h.ordered AND EXISTS (
          SELECT 1 FROM router_waiting s
          WHERE s.consumer = '*' AND s.resource = w.resource AND s.tenant_id = w.tenant_id
            AND s.resource_version < w.resource_version))
      AND NOT (h.ordered AND EXISTS (
          SELECT 1 FROM router_dead_letters d
          WHERE d.consumer = w.consumer AND d.resource = w.resource AND d.tenant_id = w.tenant_id
            AND d.resource_version < w.resource_version))
    ORDER BY w.resource_version, w.event_id, w.replay_id
    LIMIT @per_head::integer
) AS f;
