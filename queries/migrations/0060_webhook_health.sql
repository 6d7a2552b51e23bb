-- Webhook path: how an endpoint wants to be sent to, and how it has been answering.

-- At most so many requests begin in a second; 0 is no limit.
ALTER TABLE webhooks ADD COLUMN rate_per_second integer NOT NULL DEFAULT 0 CHECK (rate_per_second >= 0);
-- The version of the payloads that it was written for.
ALTER TABLE webhooks ADD COLUMN schema_version integer NOT NULL DEFAULT 1 CHECK (schema_version > 0);
ALTER TABLE webhooks DROP CONSTRAINT webhooks_disabled_reason_check;
ALTER TABLE webhooks ADD CONSTRAINT webhooks_disabled_reason_check
    CHECK (disabled_reason IN ('', 'tenant', 'gone', 'failing'));

-- Attempts that failed by a fault of the house, or that were probes: the schedule does not count them.
ALTER TABLE webhook_deliveries ADD COLUMN forgiven smallint NOT NULL DEFAULT 0;
-- What was sent beside the body: a JSON object of the headers, the tenant's own without their values.
ALTER TABLE webhook_delivery_attempts ADD COLUMN request_headers text NOT NULL DEFAULT '';

-- One row while an endpoint has had nothing but failures; its first success deletes it. Apart from the endpoint, whose
-- row the fan-out holds.
CREATE TABLE webhook_health (
    tenant_id     uuid NOT NULL,
    webhook_id    uuid NOT NULL,
    failing_since timestamptz NOT NULL,
    -- Failures one after the other, as the sender counted them when it last wrote.
    failures      integer NOT NULL,
    -- While the breaker is open: until when.
    open_until    timestamptz,
    -- When a disabled endpoint is next tried with one of its parked deliveries.
    probe_at      timestamptz,
    PRIMARY KEY (tenant_id, webhook_id),
    FOREIGN KEY (tenant_id, webhook_id) REFERENCES webhooks (tenant_id, id)
) WITH (fillfactor = 50);
CREATE INDEX webhook_health_probes ON webhook_health (probe_at) WHERE probe_at IS NOT NULL;

ALTER TABLE webhook_health ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_health FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON webhook_health TO tollway_api
    USING (tenant_id = nullif(current_setting('tollway.tenant', true), '')::uuid);
-- The API may delete: enabling an endpoint begins anew.
GRANT SELECT, DELETE ON webhook_health TO tollway_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_health TO tollway_worker;
