-- Publish path, the pull side: every routed event once, in an order that a reader can resume from.

-- One writer per partition, under the lock of its row in router_positions, so positions become visible in order.
CREATE TABLE event_feed (
    tenant_id uuid NOT NULL,
    partition smallint NOT NULL,
    position  bigint NOT NULL,
    event_id  uuid NOT NULL,
    PRIMARY KEY (tenant_id, partition, position)
);
ALTER TABLE event_feed ENABLE ROW LEVEL SECURITY;
ALTER TABLE event_feed FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON event_feed TO tollway_api
    USING (tenant_id = nullif(current_setting('tollway.tenant', true), '')::uuid);
GRANT SELECT ON event_feed TO tollway_api;
GRANT SELECT, INSERT ON event_feed TO tollway_worker;
-- How far each partition has come; nothing of any tenant stands there.
GRANT SELECT ON router_positions TO tollway_api;
