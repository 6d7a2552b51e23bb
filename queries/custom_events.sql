-- Publish path, step 1: what the tenants' own events need.

-- name: DrawCustomVersions :many
-- Raises the version of each resource by the number of its new events, and keeps the rows locked until the commit.
INSERT INTO custom_resources (tenant_id, resource, version)
SELECT @tenant_id, g.resource, g.events
FROM unnest(@resources::text[], @events::bigint[]) AS g (resource, events)
ORDER BY g.resource
ON CONFLICT (tenant_id, resource) DO UPDATE SET version = custom_resources.version + excluded.version
RETURNING resource, version;

-- name: ListCorrelations :many
SELECT id, correlation_id FROM billing_events WHERE tenant_id = @tenant_id AND id = ANY (@event_ids::uuid[]);
