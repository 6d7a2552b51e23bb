-- Operators: what waits in the router, and why.

-- name: ListWaiting :many
-- By event, and for each why it waits: an earlier event of its resource that goes first, or a pause.
SELECT w.consumer, w.resource, w.resource_version, w.event_id, w.replay_id, w.tenant_id, w.partition, w.subject,
       w.attempts, w.last_error, w.parked_at, w.paused AS parked,
       (CASE WHEN w.next_attempt_at < 'infinity' THEN w.next_attempt_at END)::timestamptz AS "next_attempt_at?",
       EXISTS (
           SELECT 1 FROM pauses p
           WHERE p.resumed_at IS NULL AND (p.consumer = w.consumer OR p.tenant_id = w.tenant_id))::boolean AS paused,
       (SELECT b.event_id FROM (
            SELECT e.event_id, e.resource_version FROM router_waiting e
            WHERE e.resource = w.resource AND e.tenant_id = w.tenant_id
              AND (e.consumer = w.consumer AND (w.consumer = ANY (@ordered::text[]) OR w.paused AND e.paused)
                       AND (e.resource_version, e.event_id, e.replay_id) < (w.resource_version, w.event_id, w.replay_id)
                   OR e.consumer = '*' AND w.consumer = ANY (@ordered::text[]) AND w.consumer <> '*'
                       AND e.resource_version < w.resource_version)
            UNION ALL
            SELECT d.event_id, d.resource_version FROM router_dead_letters d
            WHERE d.consumer = w.consumer AND d.resource = w.resource AND d.tenant_id = w.tenant_id
              AND w.consumer = ANY (@ordered::text[]) AND d.resource_version < w.resource_version
        ) AS b
        ORDER BY b.resource_version, b.event_id LIMIT 1)::uuid AS "behind_event_id?"
FROM router_waiting w
WHERE (sqlc.narg(consumer)::text IS NULL OR w.consumer = sqlc.narg(consumer)::text)
  AND (sqlc.narg(tenant_id)::uuid IS NULL OR w.tenant_id = sqlc.narg(tenant_id)::uuid)
  AND (sqlc.narg(resource)::text IS NULL OR w.resource = sqlc.narg(resource)::text)
  AND (w.event_id, w.consumer, w.replay_id) > (@after_event::uuid, @after_consumer::text, @after_replay::uuid)
ORDER BY w.event_id, w.consumer, w.replay_id
LIMIT @most::integer;
