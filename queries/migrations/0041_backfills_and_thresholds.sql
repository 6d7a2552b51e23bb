-- Backfill jobs, thresholds on usage, and items whose usage must name its subscription.

-- A named job under which old usage is recorded, so that all of it can be listed, and voided as a whole.
CREATE TABLE usage_backfills (
    tenant_id   uuid NOT NULL REFERENCES tenants (id),
    id          uuid NOT NULL,
    name        text NOT NULL,
    note        text NOT NULL,
    status      text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'reverting', 'reverted')),
    created_at  timestamptz NOT NULL,
    reverted_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, name),
    CHECK ((status = 'reverted') = (reverted_at IS NOT NULL))
);
CREATE TABLE usage_backfill_batches (
    tenant_id   uuid NOT NULL,
    backfill_id uuid NOT NULL,
    batch_id    uuid NOT NULL,
    records     integer NOT NULL,
    PRIMARY KEY (tenant_id, backfill_id, batch_id),
    FOREIGN KEY (tenant_id, backfill_id) REFERENCES usage_backfills (tenant_id, id)
);

-- What a customer's usage of a meter, or what it costs so far, is watched for. `quantity` or `amount` (minor units) is set.
CREATE TABLE usage_thresholds (
    tenant_id   uuid NOT NULL,
    id          uuid NOT NULL,
    customer_id uuid NOT NULL,
    meter_id    uuid,
    quantity    numeric CHECK (quantity > 0),
    amount      bigint CHECK (amount > 0),
    currency    text,
    note        text NOT NULL,
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, id),
    FOREIGN KEY (tenant_id, meter_id) REFERENCES meters (tenant_id, id),
    CHECK ((quantity IS NULL) <> (amount IS NULL)),
    CHECK (quantity IS NULL OR meter_id IS NOT NULL),
    CHECK ((amount IS NULL) = (currency IS NULL))
);
CREATE INDEX usage_thresholds_by_customer ON usage_thresholds (tenant_id, customer_id, id);

-- A threshold is crossed once for each subscription and period: the key says so. A deleted threshold takes its own along.
CREATE TABLE usage_threshold_crossings (
    tenant_id       uuid NOT NULL,
    threshold_id    uuid NOT NULL,
    subscription_id uuid NOT NULL,
    period_end      timestamptz NOT NULL,
    id              uuid NOT NULL,
    reached         numeric NOT NULL,
    crossed_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, threshold_id, subscription_id, period_end),
    FOREIGN KEY (tenant_id, threshold_id) REFERENCES usage_thresholds (tenant_id, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, subscription_id) REFERENCES subscriptions (tenant_id, id)
);

-- Several items of a customer may price one meter at a time when the usage must say which subscription it is for.
ALTER TABLE subscription_items ADD COLUMN subscription_required boolean NOT NULL DEFAULT false;
CREATE INDEX subscription_items_required ON subscription_items (tenant_id, meter_id, customer_id) WHERE subscription_required;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'usage_backfills', 'usage_backfill_batches', 'usage_thresholds', 'usage_threshold_crossings'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY one_tenant ON %I TO tollway_api USING (tenant_id = nullif(current_setting(''tollway.tenant'', true), '''')::uuid)',
            name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO tollway_api, tollway_worker', name);
    END LOOP;
END $$;
