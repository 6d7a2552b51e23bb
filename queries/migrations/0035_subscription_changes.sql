-- Subscription path: what changes a subscription, and what each invoice is to charge for licensed prices.

-- `change_due_at` is the instant of the earliest pending scheduled change. `billed_until`: all before it is billed
-- elsewhere, by the system that the subscription was imported from.
ALTER TABLE subscriptions
    ADD COLUMN billed_until timestamptz,
    ADD COLUMN change_due_at timestamptz;
CREATE INDEX subscriptions_change_due ON subscriptions (change_due_at, tenant_id, id) WHERE change_due_at IS NOT NULL;
CREATE INDEX subscriptions_change_due_by_tenant ON subscriptions (tenant_id, change_due_at, id)
    WHERE change_due_at IS NOT NULL;

-- An item is part of the subscription in [started_at, ended_at); null is the subscription's own start and end.
ALTER TABLE subscription_items
    ADD COLUMN started_at timestamptz,
    ADD COLUMN ended_at timestamptz;

-- The full nominal period that a usage period is cut from; null for one that is whole.
ALTER TABLE usage_periods
    ADD COLUMN IF NOT EXISTS nominal_start timestamptz,
    ADD COLUMN IF NOT EXISTS nominal_end timestamptz;

-- To what instants a plan cuts its periods.
ALTER TABLE plans
    ADD COLUMN IF NOT EXISTS granularity text NOT NULL DEFAULT 'second' CHECK (granularity IN ('second', 'day'));

-- What an invoice charges for a licensed item and a stretch of time, written by whoever opens the period or changes the
-- subscription. A credit gives back the rest of a charge in advance; `ended_at` says since when a charge is given back.
CREATE TABLE fee_periods (
    tenant_id       uuid NOT NULL,
    id              bigint GENERATED ALWAYS AS IDENTITY,
    subscription_id uuid NOT NULL,
    item_id         uuid NOT NULL,
    price_id        uuid NOT NULL,
    quantity        numeric NOT NULL,
    reason          text NOT NULL CHECK (reason IN ('period', 'debit', 'credit')),
    billing_timing  text NOT NULL CHECK (billing_timing IN ('in_advance', 'in_arrears')),
    period_start    timestamptz NOT NULL,
    period_end      timestamptz NOT NULL,
    nominal_start   timestamptz NOT NULL,
    nominal_end     timestamptz NOT NULL,
    bill_kind       text NOT NULL,
    bill_boundary   timestamptz NOT NULL,
    ended_at        timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, subscription_id) REFERENCES subscriptions (tenant_id, id),
    FOREIGN KEY (tenant_id, item_id) REFERENCES subscription_items (tenant_id, id),
    FOREIGN KEY (tenant_id, price_id) REFERENCES prices (tenant_id, id),
    CHECK (period_start < period_end)
) WITH (fillfactor = 70);
CREATE INDEX fee_periods_by_bill ON fee_periods (tenant_id, subscription_id, bill_kind, bill_boundary);
CREATE UNIQUE INDEX fee_periods_once ON fee_periods (tenant_id, item_id, period_start, billing_timing)
    WHERE reason = 'period';

-- A change that was asked for and whose time has not come, or what became of it. `request` is what
-- billing.services.scheduled_changes writes.
CREATE TABLE scheduled_changes (
    tenant_id       uuid NOT NULL,
    id              uuid NOT NULL,
    subscription_id uuid NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('change', 'cancel')),
    due_at          timestamptz NOT NULL,
    request         jsonb NOT NULL,
    status          text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'executed', 'canceled', 'failed')),
    error           text NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL,
    finished_at     timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, subscription_id) REFERENCES subscriptions (tenant_id, id),
    CHECK ((status = 'pending') = (finished_at IS NULL))
);
CREATE INDEX scheduled_changes_by_subscription ON scheduled_changes (tenant_id, subscription_id, id);
CREATE INDEX scheduled_changes_pending ON scheduled_changes (tenant_id, subscription_id, due_at, id)
    WHERE status = 'pending';

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['fee_periods', 'scheduled_changes'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY one_tenant ON %I TO tollway_api USING (tenant_id = nullif(current_setting(''tollway.tenant'', true), '''')::uuid)',
            name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO tollway_api, tollway_worker', name);
    END LOOP;
END $$;
