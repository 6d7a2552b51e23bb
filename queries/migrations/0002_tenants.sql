-- Tenants, their keys and clocks; answers kept for retries; the audit. Every primary key of a tenant's table begins with
-- tenant_id, and every foreign key between such tables is composite, so that a mistake across tenants is refused here too.

CREATE TABLE tenants (
    id           uuid PRIMARY KEY,
    display_name text NOT NULL,
    mode         text NOT NULL CHECK (mode IN ('live', 'test')),
    time_zone    text NOT NULL,
    version      bigint NOT NULL DEFAULT 1,
    created_at   timestamptz NOT NULL
);

-- A key is looked up by the SHA-256 of its 256-bit secret. tenant_id is null for operator keys.
CREATE TABLE api_keys (
    id           uuid PRIMARY KEY,
    tenant_id    uuid REFERENCES tenants (id),
    secret_hash  bytea NOT NULL UNIQUE,
    display_name text NOT NULL,
    scopes       text[] NOT NULL,
    version      bigint NOT NULL DEFAULT 1,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, id);

-- The business time of a test-mode tenant. While target_time is ahead, a worker moves business_time towards it.
CREATE TABLE test_clocks (
    tenant_id     uuid PRIMARY KEY REFERENCES tenants (id),
    business_time timestamptz NOT NULL,
    target_time   timestamptz NOT NULL CHECK (target_time >= business_time),
    status        text NOT NULL CHECK (status IN ('ready', 'advancing', 'failed')),
    waiting_for   text NOT NULL DEFAULT '',
    -- Machine time: when business_time last moved, and since when it has waited for the same thing.
    step_began_at timestamptz,
    waiting_since timestamptz,
    version       bigint NOT NULL DEFAULT 1,
    created_at    timestamptz NOT NULL
);
CREATE INDEX test_clocks_advancing ON test_clocks (tenant_id) WHERE status = 'advancing';

-- The answer to a request_id, stored in the mutation's own transaction.
CREATE TABLE idempotent_requests (
    tenant_id    uuid NOT NULL,
    principal    uuid NOT NULL,
    method       text NOT NULL,
    request_id   text NOT NULL,
    body_hash    bytea NOT NULL,
    answer       bytea,
    encrypted    boolean NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, principal, method, request_id)
);
CREATE INDEX idempotent_requests_by_age ON idempotent_requests (created_at);

-- Who did what; insert-only.
CREATE TABLE audit_log (
    tenant_id      uuid NOT NULL,
    id             uuid NOT NULL,
    actor          text NOT NULL,
    method         text NOT NULL,
    resource       text NOT NULL,
    correlation_id uuid NOT NULL,
    note           text NOT NULL DEFAULT '',
    created_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
