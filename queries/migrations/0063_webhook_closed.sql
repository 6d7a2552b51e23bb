-- Webhook path: what deliveries that are kept no longer came to, so that the books still add up.
CREATE TABLE webhook_closed (
    tenant_id  uuid NOT NULL,
    webhook_id uuid NOT NULL,
    status     text NOT NULL CHECK (status IN ('delivered', 'dead', 'canceled')),
    count      bigint NOT NULL,
    -- How many of them were resends.
    resent     bigint NOT NULL,
    PRIMARY KEY (tenant_id, webhook_id, status),
    FOREIGN KEY (tenant_id, webhook_id) REFERENCES webhooks (tenant_id, id)
) WITH (fillfactor = 50);

ALTER TABLE webhook_closed ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_closed FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON webhook_closed TO tollway_api
    USING (tenant_id = nullif(current_setting('tollway.tenant', true), '')::uuid);
GRANT SELECT ON webhook_closed TO tollway_api;
GRANT SELECT, INSERT, UPDATE ON webhook_closed TO tollway_worker;
