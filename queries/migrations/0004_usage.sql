-- Usage path: records, the periods they belong to, marks, buckets for looking, running charges.

-- A record is there once per tenant and idempotency key, for as long as it is kept. The fold writes its owner: the item
-- and the start of the usage period; folded without owner is unassigned. A further revision (amended, voided, moved)
-- is a row of its own that names its root.
CREATE TABLE usage_records (
    tenant_id       uuid NOT NULL,
    idempotency_key text NOT NULL,
    batch_id        uuid NOT NULL,
    root_key        text,
    revision        integer NOT NULL DEFAULT 0,
    voided          boolean NOT NULL DEFAULT false,
    meter_id        uuid NOT NULL,
    customer_id     uuid NOT NULL,
    subscription_id uuid,
    used_at         timestamptz NOT NULL,
    quantity        numeric NOT NULL,
    properties      jsonb,
    accepted_at     timestamptz NOT NULL,
    folded          boolean NOT NULL DEFAULT false,
    item_id         uuid,
    period_start    timestamptz,
    PRIMARY KEY (tenant_id, idempotency_key),
    -- The owner, written by a worker, is held by the database; meter and customer were resolved inside the tenant
    -- when the record was taken in, and a foreign key on each would halve the ingest.
    FOREIGN KEY (tenant_id, item_id) REFERENCES subscription_items (tenant_id, id),
    CHECK ((revision = 0) = (root_key IS NULL)),
    CHECK ((item_id IS NULL) = (period_start IS NULL))
) PARTITION BY HASH (tenant_id);
CREATE TABLE usage_records_0 PARTITION OF usage_records FOR VALUES WITH (MODULUS 8, REMAINDER 0);
CREATE TABLE usage_records_1 PARTITION OF usage_records FOR VALUES WITH (MODULUS 8, REMAINDER 1);
CREATE TABLE usage_records_2 PARTITION OF usage_records FOR VALUES WITH (MODULUS 8, REMAINDER 2);
CREATE TABLE usage_records_3 PARTITION OF usage_records FOR VALUES WITH (MODULUS 8, REMAINDER 3);
CREATE TABLE usage_records_4 PARTITION OF usage_records FOR VALUES WITH (MODULUS 8, REMAINDER 4);
CREATE TABLE usage_records_5 PARTITION OF usage_records FOR VALUES WITH (MODULUS 8, REMAINDER 5);
CREATE TABLE usage_records_6 PARTITION OF usage_records FOR VALUES WITH (MODULUS 8, REMAINDER 6);
CREATE TABLE usage_records_7 PARTITION OF usage_records FOR VALUES WITH (MODULUS 8, REMAINDER 7);
CREATE INDEX usage_records_by_batch ON usage_records (tenant_id, batch_id);
CREATE INDEX usage_records_by_owner ON usage_records (tenant_id, item_id, period_start) WHERE item_id IS NOT NULL;
CREATE INDEX usage_records_unfolded ON usage_records (tenant_id, customer_id) WHERE NOT folded;
CREATE INDEX usage_records_unassigned ON usage_records (tenant_id, customer_id, meter_id, used_at) WHERE folded AND item_id IS NULL;
CREATE UNIQUE INDEX usage_records_revisions ON usage_records (tenant_id, root_key, revision) WHERE root_key IS NOT NULL;

-- One row per metered item and period, made one period ahead by whoever opens the period, never by the fold: a row that
-- does not exist cannot be locked. `closing_until` is the finalizer's flag that folds respect; a stale one runs out.
-- bill_kind and bill_boundary name the invoice that bills it; they are null for a trial, which is shown and not billed.
CREATE TABLE usage_periods (
    tenant_id       uuid NOT NULL,
    item_id         uuid NOT NULL,
    period_start    timestamptz NOT NULL,
    period_end      timestamptz NOT NULL,
    subscription_id uuid NOT NULL,
    customer_id     uuid NOT NULL,
    meter_id        uuid NOT NULL,
    price_id        uuid NOT NULL,
    status          text NOT NULL DEFAULT 'reported' CHECK (status IN ('reported', 'rated', 'billed')),
    bill_kind       text,
    bill_boundary   timestamptz,
    closing_until   timestamptz,
    PRIMARY KEY (tenant_id, item_id, period_start),
    FOREIGN KEY (tenant_id, item_id) REFERENCES subscription_items (tenant_id, id),
    FOREIGN KEY (tenant_id, subscription_id) REFERENCES subscriptions (tenant_id, id),
    FOREIGN KEY (tenant_id, price_id) REFERENCES prices (tenant_id, id),
    CHECK (period_start < period_end),
    CHECK ((bill_kind IS NULL) = (bill_boundary IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX usage_periods_by_subscription ON usage_periods (tenant_id, subscription_id, bill_kind, bill_boundary);

-- What the fold leaves behind, appended, so that folds never wait for each other: a period is due for rating, or was
-- billed before and is to be adjusted. Names the event that caused it, for the links of the event that follows.
CREATE TABLE usage_period_marks (
    tenant_id       uuid NOT NULL,
    id              bigint GENERATED ALWAYS AS IDENTITY,
    item_id         uuid NOT NULL,
    period_start    timestamptz NOT NULL,
    subscription_id uuid NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('due', 'adjust')),
    event_id        uuid NOT NULL,
    correlation_id  uuid NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, item_id, period_start) REFERENCES usage_periods (tenant_id, item_id, period_start)
);
CREATE INDEX usage_period_marks_due ON usage_period_marks (tenant_id, subscription_id) WHERE kind = 'due';
CREATE INDEX usage_period_marks_by_period ON usage_period_marks (tenant_id, item_id, period_start);

-- Hourly sums for looking and for running charges. The key has the usage period, so that a boundary inside an hour
-- makes two buckets.
CREATE TABLE usage_buckets (
    tenant_id    uuid NOT NULL,
    item_id      uuid NOT NULL,
    period_start timestamptz NOT NULL,
    hour         timestamptz NOT NULL,
    group_key    text NOT NULL DEFAULT '',
    records      bigint NOT NULL,
    quantity_sum numeric NOT NULL,
    quantity_max numeric NOT NULL,
    PRIMARY KEY (tenant_id, item_id, period_start, hour, group_key),
    FOREIGN KEY (tenant_id, item_id) REFERENCES subscription_items (tenant_id, id)
) WITH (fillfactor = 70);

-- The running charge of a usage period: what it costs as of the last rating. For looking only.
CREATE TABLE charges (
    tenant_id       uuid NOT NULL,
    item_id         uuid NOT NULL,
    period_start    timestamptz NOT NULL,
    subscription_id uuid NOT NULL,
    quantity        numeric NOT NULL,
    amount          bigint NOT NULL,
    currency        text NOT NULL,
    rated_at        timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, item_id, period_start),
    FOREIGN KEY (tenant_id, item_id, period_start) REFERENCES usage_periods (tenant_id, item_id, period_start)
);
CREATE INDEX charges_by_subscription ON charges (tenant_id, subscription_id);
