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
    -- Up to when the rate has been used, in machine time.
    armed_at     timestamptz NOT NULL,
    -- Events up to this id are accounted for by every consumer that wants them.
    settled_until uuid,
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
CREATE UNIQUE INDEX replays_by_id ON replays (id);
-- What a replay still has in the queue. Live rows have no entry here.
CREATE INDEX outbox_of_replays ON outbox (replay_id) WHERE replay_id IS NOT NULL;
CREATE INDEX outbox_dead_letters_of_replays ON outbox_dead_letters (replay_id) WHERE replay_id IS NOT NULL;
