-- Webhook path, beside it: jobs that send a stretch of events to an endpoint again.

CREATE TABLE webhook_recoveries (
    tenant_id       uuid NOT NULL,
    id              uuid NOT NULL,
    webhook_id      uuid NOT NULL,
    actor           text NOT NULL,
    note            text NOT NULL,
    -- Events above the first up to the second id, frozen when it was started; a range of ids is a range of time.
    after_event     uuid NOT NULL,
    last_event      uuid NOT NULL,
    -- States of the latest delivery; 'missed' is an event that has none.
    states          text[] NOT NULL,
    subjects        text[] NOT NULL,
    rate_per_second integer NOT NULL CHECK (rate_per_second > 0),
    status          text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'finished', 'canceled')),
    -- What was counted before it was started, and what has been made.
    matched         bigint NOT NULL,
    made            bigint NOT NULL DEFAULT 0,
    -- Events up to this id are done.
    done_until      uuid NOT NULL,
    -- Up to when the rate has been used, in machine time.
    armed_at        timestamptz NOT NULL,
    created_at      timestamptz NOT NULL,
    finished_at     timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, webhook_id) REFERENCES webhooks (tenant_id, id)
) WITH (fillfactor = 50);
-- One at a time per endpoint.
CREATE UNIQUE INDEX webhook_recoveries_active ON webhook_recoveries (tenant_id, webhook_id) WHERE status = 'running';
CREATE INDEX webhook_recoveries_running ON webhook_recoveries (id) WHERE status = 'running';

ALTER TABLE webhook_recoveries ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_recoveries FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON webhook_recoveries TO tollway_api
    USING (tenant_id = nullif(current_setting('tollway.tenant', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE ON webhook_recoveries TO tollway_api, tollway_worker;
