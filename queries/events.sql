-- Publish path: the log of events and the outbox, written together.

-- name: InsertEvents :execrows
-- The events and their first publications. Positions are drawn here, in the order given, while the caller holds the
-- resources' row locks. No row when the ids' time is more than 60 s away from the database's.
WITH given AS (
    SELECT g.id, g.tenant_id, g.subject, g.resource, g.resource_version, g.correlation_id, g.causation_id,
           g.schema_version, g.occurred_at, g.envelope, g.hash, g.place
    FROM unnest(
        @ids::uuid[], @tenant_ids::uuid[], @subjects::text[], @resources::text[], @resource_versions::bigint[],
        @correlation_ids::uuid[], sqlc.narg(causation_ids)::uuid[], @schema_versions::integer[], @occurred_ats::timestamptz[],
        @envelopes::bytea[], @hashes::bigint[]
    ) WITH ORDINALITY AS g (
        id, tenant_id, subject, resource, resource_version, correlation_id, causation_id, schema_version, occurred_at,
        envelope, hash, place
    )
    WHERE @ids_made_at::timestamptz BETWEEN clock_timestamp() - interval '60 seconds'
                                        AND clock_timestamp() + interval '60 seconds'
), logged AS (
    INSERT INTO billing_events (
        id, tenant_id, subject, resource, resource_version, correlation_id, causation_id, schema_version, occurred_at,
        envelope)
    SELECT id, tenant_id, subject, resource, resource_version, correlation_id, causation_id, schema_version, occurred_at,
           envelope
    FROM given ORDER BY place
)
INSERT INTO outbox (event_id, tenant_id, shard, position, subject, resource)
SELECT id, tenant_id, hash % (SELECT shards FROM topology), nextval('outbox_position'), subject, resource
FROM (SELECT id, tenant_id, hash, subject, resource FROM given ORDER BY place) AS ordered;

-- name: InsertEventLinks :exec
INSERT INTO event_links (tenant_id, event_id, linked_event_id, linked_correlation_id, correlation_id)
SELECT g.tenant_id, g.event_id, g.linked_event_id, g.linked_correlation_id, g.correlation_id
FROM unnest(
    @tenant_ids::uuid[], @event_ids::uuid[], @linked_event_ids::uuid[], @linked_correlation_ids::uuid[],
    @correlation_ids::uuid[]
) AS g (tenant_id, event_id, linked_event_id, linked_correlation_id, correlation_id)
ORDER BY g.event_id, g.linked_event_id
ON CONFLICT DO NOTHING;
