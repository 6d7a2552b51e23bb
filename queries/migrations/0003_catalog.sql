-- The catalog and who subscribes to it.

CREATE TABLE meters (
    tenant_id      uuid NOT NULL REFERENCES tenants (id),
    id             uuid NOT NULL,
    key            text NOT NULL,
    display_name   text NOT NULL,
    aggregation    text NOT NULL CHECK (aggregation IN ('count', 'sum', 'max', 'unique', 'latest', 'weighted_sum')),
    archived_at    timestamptz,
    version        bigint NOT NULL DEFAULT 1,
    created_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, key)
);

CREATE TABLE plans (
    tenant_id        uuid NOT NULL REFERENCES tenants (id),
    id               uuid NOT NULL,
    key              text NOT NULL,
    display_name     text NOT NULL,
    currency         text NOT NULL,
    billing_interval text NOT NULL CHECK (billing_interval IN ('day', 'week', 'month', 'quarter', 'year')),
    version          bigint NOT NULL DEFAULT 1,
    created_at       timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, key)
);

-- Never edited, only superseded. `config` holds the model's numbers as decimal strings.
CREATE TABLE prices (
    tenant_id      uuid NOT NULL,
    id             uuid NOT NULL,
    plan_id        uuid NOT NULL,
    meter_id       uuid,
    display_name   text NOT NULL,
    currency       text NOT NULL,
    model          text NOT NULL,
    config         jsonb NOT NULL,
    billing_timing text NOT NULL CHECK (billing_timing IN ('in_advance', 'in_arrears')),
    version        bigint NOT NULL DEFAULT 1,
    created_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, plan_id) REFERENCES plans (tenant_id, id),
    FOREIGN KEY (tenant_id, meter_id) REFERENCES meters (tenant_id, id),
    CHECK (meter_id IS NULL OR billing_timing = 'in_arrears')
);
CREATE INDEX prices_by_plan ON prices (tenant_id, plan_id, id);

CREATE TABLE customers (
    tenant_id    uuid NOT NULL REFERENCES tenants (id),
    id           uuid NOT NULL,
    external_id  text,
    display_name text NOT NULL,
    time_zone    text NOT NULL,
    version      bigint NOT NULL DEFAULT 1,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, external_id)
);

-- anchor_at is set at the activation and never moves: period n is anchor + n intervals. next_due_at is the next instant
-- of business time at which the scheduler must act on the subscription: its start, its trial's end, its period's end.
CREATE TABLE subscriptions (
    tenant_id        uuid NOT NULL,
    id               uuid NOT NULL,
    external_id      text,
    customer_id      uuid NOT NULL,
    plan_id          uuid NOT NULL,
    status           text NOT NULL CHECK (status IN ('created', 'trialing', 'active', 'canceled')),
    currency         text NOT NULL,
    billing_interval text NOT NULL,
    alignment        text NOT NULL CHECK (alignment IN ('anniversary', 'calendar')),
    time_zone        text NOT NULL,
    start_at         timestamptz NOT NULL,
    trial_end_at     timestamptz,
    anchor_at        timestamptz,
    period_index     integer,
    period_start     timestamptz,
    period_end       timestamptz,
    canceled_at      timestamptz,
    next_due_at      timestamptz,
    -- When it was last rated, why the last rating failed, and when it is tried again (machine time).
    rated_at         timestamptz,
    -- The last rating.completed: what the next cycle's close is linked to.
    rated_event_id   uuid,
    rated_correlation_id uuid,
    rating_failure   text,
    rating_error     text,
    rating_attempts  integer NOT NULL DEFAULT 0,
    rating_retry_at  timestamptz,
    version          bigint NOT NULL DEFAULT 1,
    created_at       timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, external_id),
    FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, id),
    FOREIGN KEY (tenant_id, plan_id) REFERENCES plans (tenant_id, id)
) WITH (fillfactor = 70);
CREATE INDEX subscriptions_due ON subscriptions (next_due_at, tenant_id, id) WHERE next_due_at IS NOT NULL;
-- A tenant with a test clock has its own time, and its due rows are sought by it.
CREATE INDEX subscriptions_due_by_tenant ON subscriptions (tenant_id, next_due_at, id) WHERE next_due_at IS NOT NULL;
CREATE INDEX subscriptions_by_customer ON subscriptions (tenant_id, customer_id);

CREATE TABLE subscription_items (
    tenant_id       uuid NOT NULL,
    id              uuid NOT NULL,
    subscription_id uuid NOT NULL,
    customer_id     uuid NOT NULL,
    price_id        uuid NOT NULL,
    meter_id        uuid,
    quantity        numeric NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, subscription_id) REFERENCES subscriptions (tenant_id, id),
    FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, id),
    FOREIGN KEY (tenant_id, price_id) REFERENCES prices (tenant_id, id),
    FOREIGN KEY (tenant_id, meter_id) REFERENCES meters (tenant_id, id)
);
CREATE INDEX subscription_items_by_subscription ON subscription_items (tenant_id, subscription_id);
CREATE INDEX subscription_items_by_owner ON subscription_items (tenant_id, customer_id, meter_id) WHERE meter_id IS NOT NULL;
