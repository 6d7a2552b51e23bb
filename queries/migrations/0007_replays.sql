-- Replay path: plans that were started, and how far they have come.

CREATE TABLE replays (
    tenant_id    uuid NOT NULL REFERENCES tenants (id),
    id           uuid NOT NULL,
    actor        text NOT NULL,
    note         text NOT NULL,
    plan         jsonb NOT NULL,
    plan_hash    bytea NOT NULL,
    -- The nonce of the confirmation token: used once.
    token_nonce  uuid NOT NULL UNIQUE,
    status       text NOT NULL CHECK (status IN ('running', 'finished')),
    matched      bigint NOT NULL,
    -- Events armed so far: those up to this id are in the outbox or on the bus.
    armed        bigint NOT NULL DEFAULT 0,
    armed_until  uuid,
    skipped      bigint NOT NULL DEFAULT 0,
    failed       bigint NOT NULL DEFAULT 0,
    version      bigint NOT NULL DEFAULT 1,
    started_at   timestamptz NOT NULL,
    finished_at  timestamptz,
    PRIMARY KEY (tenant_id, id)
);
-- One active replay per tenant and target; the bus is the only target so far.
CREATE UNIQUE INDEX replays_active ON replays (tenant_id) WHERE status = 'running';
CREATE INDEX replays_running ON replays (id) WHERE status = 'running';
