-- Invoice path: cycles, invoices, lines, numbers.

-- A cycle is opened when its period begins and closed when its boundary has come.
CREATE TABLE billing_cycles (
    tenant_id       uuid NOT NULL,
    subscription_id uuid NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('activation', 'period', 'change', 'final', 'adjustment')),
    boundary        timestamptz NOT NULL,
    id              uuid NOT NULL,
    -- The period that ends at the boundary; null for an activation.
    period_start    timestamptz,
    closed_at       timestamptz,
    PRIMARY KEY (tenant_id, subscription_id, kind, boundary),
    FOREIGN KEY (tenant_id, subscription_id) REFERENCES subscriptions (tenant_id, id)
);

-- At most one invoice that counts per subscription, kind and boundary: a void one counts only when it is waived, that is,
-- not to be made again.
CREATE TABLE invoices (
    tenant_id       uuid NOT NULL,
    id              uuid NOT NULL,
    customer_id     uuid NOT NULL,
    subscription_id uuid,
    kind            text NOT NULL,
    boundary        timestamptz NOT NULL,
    status          text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'open', 'paid', 'void')),
    waived          boolean NOT NULL DEFAULT false,
    currency        text NOT NULL,
    number          text,
    subtotal        bigint NOT NULL DEFAULT 0,
    total           bigint NOT NULL DEFAULT 0,
    amount_due      bigint NOT NULL DEFAULT 0,
    closed_at       timestamptz NOT NULL,
    finalize_at     timestamptz NOT NULL,
    finalized_at    timestamptz,
    blocked_reason  text,
    -- Not looked at before (machine time): a blocked draft waits, a claimed one is being finalized until then.
    retry_at        timestamptz,
    -- The event of the cycle's closing, and its correlation id: what finalizing it follows from.
    correlation_id  uuid NOT NULL,
    causation_id    uuid NOT NULL,
    version         bigint NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, number),
    FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, id),
    FOREIGN KEY (tenant_id, subscription_id) REFERENCES subscriptions (tenant_id, id),
    FOREIGN KEY (tenant_id, subscription_id, kind, boundary)
        REFERENCES billing_cycles (tenant_id, subscription_id, kind, boundary),
    CHECK ((status = 'draft') = (number IS NULL)),
    CHECK (status = 'draft' OR total >= 0)
);
CREATE UNIQUE INDEX invoices_once ON invoices (tenant_id, subscription_id, kind, boundary) WHERE status <> 'void' OR waived;
CREATE INDEX invoices_to_finalize ON invoices (finalize_at, tenant_id, id) WHERE status = 'draft';
CREATE INDEX invoices_to_finalize_by_tenant ON invoices (tenant_id, finalize_at, id) WHERE status = 'draft';
CREATE INDEX invoices_by_customer ON invoices (tenant_id, customer_id, id);

CREATE TABLE invoice_lines (
    tenant_id    uuid NOT NULL,
    invoice_id   uuid NOT NULL,
    line_number  integer NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('fee', 'usage')),
    description  text NOT NULL,
    item_id      uuid,
    price_id     uuid,
    period_start timestamptz,
    period_end   timestamptz,
    quantity     numeric NOT NULL,
    amount       bigint NOT NULL,
    steps        jsonb NOT NULL,
    PRIMARY KEY (tenant_id, invoice_id, line_number),
    FOREIGN KEY (tenant_id, invoice_id) REFERENCES invoices (tenant_id, id),
    FOREIGN KEY (tenant_id, item_id) REFERENCES subscription_items (tenant_id, id),
    FOREIGN KEY (tenant_id, price_id) REFERENCES prices (tenant_id, id)
);
CREATE INDEX invoice_lines_by_period ON invoice_lines (tenant_id, item_id, period_start);

-- The last number drawn per tenant; drawn late in the finalizing transaction, so that numbers have no gap.
CREATE TABLE invoice_sequences (
    tenant_id    uuid NOT NULL REFERENCES tenants (id),
    kind         text NOT NULL CHECK (kind IN ('invoice', 'credit_note')),
    last         bigint NOT NULL DEFAULT 0,
    last_at      timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (tenant_id, kind)
) WITH (fillfactor = 50);

-- A finalized invoice never changes, whoever asks: only its status and what is due move on.
CREATE FUNCTION refuse_change_of_final_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status <> 'draft' AND (
        TG_OP = 'DELETE' OR NEW.status = 'draft'
        OR (NEW.customer_id, NEW.subscription_id, NEW.kind, NEW.boundary, NEW.currency, NEW.number, NEW.subtotal,
            NEW.total, NEW.finalized_at)
        IS DISTINCT FROM
           (OLD.customer_id, OLD.subscription_id, OLD.kind, OLD.boundary, OLD.currency, OLD.number, OLD.subtotal,
            OLD.total, OLD.finalized_at)
    ) THEN
        RAISE EXCEPTION 'invoice % is final and cannot be changed', OLD.number USING ERRCODE = 'restrict_violation';
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER invoices_final BEFORE UPDATE OR DELETE ON invoices
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_final_invoice();

CREATE FUNCTION refuse_change_of_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'lines are written once, by finalizing their invoice' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER invoice_lines_final BEFORE UPDATE OR DELETE ON invoice_lines
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_line();
