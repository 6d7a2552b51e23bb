-- Publish path: resources of the tenants' own, and how far back the feed goes.

-- What custom events are about. Its row is locked while an event draws the next version, as the house's resources are.
CREATE TABLE custom_resources (
    tenant_id uuid NOT NULL,
    resource  text NOT NULL,
    version   bigint NOT NULL,
    PRIMARY KEY (tenant_id, resource)
);
ALTER TABLE custom_resources ENABLE ROW LEVEL SECURITY;
ALTER TABLE custom_resources FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON custom_resources TO tollway_api
    USING (tenant_id = nullif(current_setting('tollway.tenant', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON custom_resources TO tollway_api, tollway_worker;

-- The last position of the feed that is no longer kept: whoever removes rows of event_feed raises it in that
-- transaction, under the row's lock. A cursor below it would skip events, and is refused.
ALTER TABLE router_positions ADD COLUMN feed_floor bigint NOT NULL DEFAULT 0;
