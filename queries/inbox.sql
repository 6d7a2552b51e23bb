-- Router: which consumer has handled which event.

-- name: InsertInbox :many
-- One row the first time, none ever after; a concurrent second caller waits for the first.
INSERT INTO inbox (consumer, event_id, tenant_id)
SELECT @consumer::text, g.event_id, g.tenant_id
FROM unnest(@event_ids::uuid[], @tenant_ids::uuid[]) AS g (event_id, tenant_id)
ON CONFLICT DO NOTHING
RETURNING event_id;
