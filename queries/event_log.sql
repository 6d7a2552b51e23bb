-- Reads of the log: one event, and the trail of a cause.

-- name: GetLoggedEvent :one
-- The event, and how far its first publication has come: neither queued nor dead means that it is on the bus.
SELECT e.id, e.envelope, coalesce(d.dispatch_status, 'dispatched')::text AS dispatch_status
FROM billing_events e
LEFT JOIN event_dispatch_status d ON d.event_id = e.id
WHERE e.id = @event_id AND e.tenant_id = @tenant_id;

-- name: GetCorrelationOfEvent :one
SELECT correlation_id FROM billing_events WHERE id = @event_id AND tenant_id = @tenant_id;

-- name: ListCorrelationsOfResource :many
-- Those of the resource's latest events; one correlation stands as often as it has events there.
SELECT correlation_id FROM billing_events
WHERE tenant_id = @tenant_id AND resource = @resource
ORDER BY id DESC LIMIT @most::integer;

-- name: ListLinkedCorrelations :many
-- One link away in either direction: what the events of these correlations name as causes, and what names them.
SELECT found.correlation_id::uuid AS correlation_id FROM (
    SELECT l.linked_correlation_id AS correlation_id FROM event_links l
    WHERE l.tenant_id = @tenant_id AND l.correlation_id = ANY (@correlation_ids::uuid[])
    UNION
    SELECT l.correlation_id FROM event_links l
    WHERE l.tenant_id = @tenant_id AND l.linked_correlation_id = ANY (@correlation_ids::uuid[])
) AS found
WHERE found.correlation_id <> ALL (@known_ids::uuid[])
ORDER BY found.correlation_id
LIMIT @most::integer;

-- name: ListTrail :many
SELECT id, correlation_id, causation_id, envelope FROM billing_events
WHERE tenant_id = @tenant_id AND correlation_id = ANY (@correlation_ids::uuid[])
ORDER BY id
LIMIT @most::integer;
