-- Webhook path: endpoints, deliveries, claims, attempts, dead letters, and the counters that they must add up to.

CREATE TABLE webhooks (
    tenant_id   uuid NOT NULL REFERENCES tenants (id),
    id          uuid NOT NULL,
    url         text NOT NULL,
    subjects    text[] NOT NULL,
    description text NOT NULL,
    status      text NOT NULL CHECK (status IN ('enabled', 'disabled')),
    -- One sender owns a shard of endpoints at a time.
    shard       smallint NOT NULL,
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);

-- Encrypted with the house's key; several are valid while a rotation overlaps.
CREATE TABLE webhook_secrets (
    tenant_id   uuid NOT NULL,
    webhook_id  uuid NOT NULL,
    id          uuid NOT NULL,
    ciphertext  bytea NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz,
    PRIMARY KEY (tenant_id, webhook_id, id),
    FOREIGN KEY (tenant_id, webhook_id) REFERENCES webhooks (tenant_id, id)
);

-- One row per endpoint and event, made in the transaction that consumed the event. The nonce tells a resend from the
-- first. `attempts` counts the claimed ones; the guard of every result is its attempt number.
CREATE TABLE webhook_deliveries (
    tenant_id    uuid NOT NULL,
    webhook_id   uuid NOT NULL,
    event_id     uuid NOT NULL,
    nonce        smallint NOT NULL DEFAULT 0,
    shard        smallint NOT NULL,
    subject      text NOT NULL,
    status       text NOT NULL DEFAULT 'pending'
                 CHECK (status IN ('pending', 'delivered', 'parked', 'dead', 'canceled')),
    attempts     smallint NOT NULL DEFAULT 0,
    due_at       timestamptz NOT NULL,
    created_at   timestamptz NOT NULL,
    finished_at  timestamptz,
    PRIMARY KEY (tenant_id, webhook_id, event_id, nonce),
    FOREIGN KEY (tenant_id, webhook_id) REFERENCES webhooks (tenant_id, id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, due_at, event_id) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_waiting ON webhook_deliveries (shard, due_at) WHERE status = 'pending';

-- One row per claim, committed before anything is posted: the started record of its attempts. Arrays of one length.
CREATE TABLE webhook_claims (
    id              uuid PRIMARY KEY,
    shard           smallint NOT NULL,
    term            bigint NOT NULL,
    claimed_at      timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    tenant_ids      uuid[] NOT NULL,
    webhook_ids     uuid[] NOT NULL,
    event_ids       uuid[] NOT NULL,
    nonces          smallint[] NOT NULL,
    attempt_numbers smallint[] NOT NULL
);
CREATE INDEX webhook_claims_by_shard ON webhook_claims (shard, term);

CREATE TABLE webhook_delivery_attempts (
    tenant_id       uuid NOT NULL,
    webhook_id      uuid NOT NULL,
    event_id        uuid NOT NULL,
    nonce           smallint NOT NULL,
    attempt_number  smallint NOT NULL,
    started_at      timestamptz NOT NULL,
    duration_ms     integer NOT NULL,
    -- 'delivered', 'refused' (an answer other than 2xx), 'failed' (no answer), 'lost' (the sender died).
    outcome         text NOT NULL CHECK (outcome IN ('delivered', 'refused', 'failed', 'lost')),
    response_status smallint,
    response_head   bytea NOT NULL DEFAULT '',
    error           text NOT NULL DEFAULT '',
    address         text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, webhook_id, event_id, nonce, attempt_number)
);

CREATE TABLE webhook_dlq (
    tenant_id   uuid NOT NULL,
    webhook_id  uuid NOT NULL,
    event_id    uuid NOT NULL,
    nonce       smallint NOT NULL,
    attempts    smallint NOT NULL,
    last_error  text NOT NULL,
    died_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, webhook_id, event_id, nonce),
    FOREIGN KEY (tenant_id, webhook_id) REFERENCES webhooks (tenant_id, id)
);

-- Counted at fan-out by the partition's one router, so that no two writers share a row.
CREATE TABLE webhook_matched (
    tenant_id  uuid NOT NULL,
    webhook_id uuid NOT NULL,
    partition  smallint NOT NULL,
    count      bigint NOT NULL,
    PRIMARY KEY (tenant_id, webhook_id, partition),
    FOREIGN KEY (tenant_id, webhook_id) REFERENCES webhooks (tenant_id, id)
) WITH (fillfactor = 50);
CREATE TABLE webhook_filtered (
    tenant_id  uuid NOT NULL REFERENCES tenants (id),
    partition  smallint NOT NULL,
    count      bigint NOT NULL,
    PRIMARY KEY (tenant_id, partition)
) WITH (fillfactor = 50);
