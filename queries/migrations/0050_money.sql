-- Invoice path, below the lines: tax, discounts, credit, payments, credit notes, items that people add, and who is who.

-- Tax in percent: of the price, unless the customer has one of its own (0 for a customer that pays none).
ALTER TABLE prices ADD COLUMN tax_percent numeric CHECK (tax_percent BETWEEN 0 AND 100);
ALTER TABLE customers
    ADD COLUMN tax_percent numeric CHECK (tax_percent BETWEEN 0 AND 100),
    ADD COLUMN email       text NOT NULL DEFAULT '',
    ADD COLUMN address     text NOT NULL DEFAULT '',
    ADD COLUMN tax_number  text NOT NULL DEFAULT '';

-- How a tenant appears on its invoices. No row means: by its display name alone.
CREATE TABLE tenant_profiles (
    tenant_id            uuid PRIMARY KEY REFERENCES tenants (id),
    legal_name           text NOT NULL DEFAULT '',
    address              text NOT NULL DEFAULT '',
    tax_number           text NOT NULL DEFAULT '',
    email                text NOT NULL DEFAULT '',
    website              text NOT NULL DEFAULT '',
    accent_color         text NOT NULL DEFAULT '' CHECK (accent_color ~ '^(#[0-9a-f]{6})?$'),
    payment_instructions text NOT NULL DEFAULT '',
    footer               text NOT NULL DEFAULT '',
    version              bigint NOT NULL DEFAULT 1,
    updated_at           timestamptz NOT NULL
);

-- A discount of a customer, or of one subscription. Exactly one of percent and amount; null periods last for ever.
CREATE TABLE discounts (
    tenant_id       uuid NOT NULL,
    id              uuid NOT NULL,
    customer_id     uuid NOT NULL,
    subscription_id uuid,
    display_name    text NOT NULL,
    percent         numeric CHECK (percent BETWEEN 0 AND 100),
    amount          bigint CHECK (amount > 0),
    currency        text,
    periods         integer CHECK (periods > 0),
    ended_at        timestamptz,
    created_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, id),
    FOREIGN KEY (tenant_id, subscription_id) REFERENCES subscriptions (tenant_id, id),
    CHECK ((percent IS NULL) <> (amount IS NULL)),
    CHECK ((amount IS NULL) = (currency IS NULL))
);
CREATE INDEX discounts_by_customer ON discounts (tenant_id, customer_id, id);

-- What a person puts on an invoice: on a manual draft, or on the subscription's next invoice, which takes it.
CREATE TABLE invoice_items (
    tenant_id       uuid NOT NULL,
    id              uuid NOT NULL,
    customer_id     uuid NOT NULL,
    subscription_id uuid,
    invoice_id      uuid,
    description     text NOT NULL,
    quantity        numeric NOT NULL,
    unit_amount     numeric NOT NULL,
    amount          bigint NOT NULL,
    currency        text NOT NULL,
    tax_percent     numeric CHECK (tax_percent BETWEEN 0 AND 100),
    created_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, id),
    FOREIGN KEY (tenant_id, subscription_id) REFERENCES subscriptions (tenant_id, id),
    FOREIGN KEY (tenant_id, invoice_id) REFERENCES invoices (tenant_id, id),
    CHECK (subscription_id IS NOT NULL OR invoice_id IS NOT NULL)
);
CREATE INDEX invoice_items_by_invoice ON invoice_items (tenant_id, invoice_id, id) WHERE invoice_id IS NOT NULL;
CREATE INDEX invoice_items_waiting ON invoice_items (tenant_id, subscription_id, id) WHERE invoice_id IS NULL;

-- A manual invoice stays a draft until somebody finalizes it, unless it was given a time; it has no event for a cause.
ALTER TABLE invoices
    ALTER COLUMN finalize_at DROP NOT NULL,
    ALTER COLUMN causation_id DROP NOT NULL,
    ADD COLUMN discount          bigint NOT NULL DEFAULT 0,
    ADD COLUMN tax               bigint NOT NULL DEFAULT 0,
    ADD COLUMN credit_applied    bigint NOT NULL DEFAULT 0 CHECK (credit_applied >= 0),
    ADD COLUMN to_credit_balance bigint NOT NULL DEFAULT 0 CHECK (to_credit_balance >= 0),
    ADD COLUMN amount_paid       bigint NOT NULL DEFAULT 0 CHECK (amount_paid >= 0),
    ADD COLUMN amount_credited   bigint NOT NULL DEFAULT 0 CHECK (amount_credited >= 0),
    ADD COLUMN memo              text NOT NULL DEFAULT '',
    -- Seller and buyer as they were when the invoice became final.
    ADD COLUMN parties           jsonb,
    ADD CONSTRAINT invoices_due CHECK (
        status IN ('draft', 'void')
        OR (amount_due >= 0 AND amount_due = total - credit_applied - amount_paid - amount_credited)),
    ADD CONSTRAINT invoices_sum CHECK (
        status = 'draft' OR subtotal - discount + tax = total - to_credit_balance),
    ADD CONSTRAINT invoices_settled CHECK (status NOT IN ('open', 'paid') OR (status = 'paid') = (amount_due = 0));
CREATE INDEX invoices_manual_drafts ON invoices (finalize_at, tenant_id, id)
    WHERE status = 'draft' AND subscription_id IS NULL AND finalize_at IS NOT NULL;
CREATE INDEX invoices_by_subscription ON invoices (tenant_id, subscription_id, id) WHERE subscription_id IS NOT NULL;

-- The kinds are the services' closed list (LineKind).
ALTER TABLE invoice_lines DROP CONSTRAINT invoice_lines_kind_check;
ALTER TABLE invoice_lines
    ADD CONSTRAINT invoice_lines_kind_check CHECK (kind ~ '^[a-z_]{1,30}$'),
    ADD COLUMN discount        bigint NOT NULL DEFAULT 0,
    ADD COLUMN tax_percent     numeric NOT NULL DEFAULT 0,
    ADD COLUMN tax             bigint NOT NULL DEFAULT 0,
    ADD COLUMN invoice_item_id uuid,
    ADD FOREIGN KEY (tenant_id, invoice_item_id) REFERENCES invoice_items (tenant_id, id);

-- What each discount took from an invoice. A discount's periods are used up by its counted rows here.
CREATE TABLE invoice_discounts (
    tenant_id    uuid NOT NULL,
    invoice_id   uuid NOT NULL,
    position     integer NOT NULL,
    discount_id  uuid NOT NULL,
    display_name text NOT NULL,
    percent      numeric,
    amount       bigint NOT NULL,
    counted      boolean NOT NULL,
    PRIMARY KEY (tenant_id, invoice_id, position),
    FOREIGN KEY (tenant_id, invoice_id) REFERENCES invoices (tenant_id, id),
    FOREIGN KEY (tenant_id, discount_id) REFERENCES discounts (tenant_id, id)
);
CREATE INDEX invoice_discounts_by_discount ON invoice_discounts (tenant_id, discount_id);

-- A customer's credit, per currency, so that a subscription in another one is never held back. The row is locked before
-- the ledger is read or written; `entries` numbers the ledger's rows.
CREATE TABLE credit_balances (
    tenant_id   uuid NOT NULL,
    customer_id uuid NOT NULL,
    currency    text NOT NULL,
    balance     bigint NOT NULL DEFAULT 0 CHECK (balance >= 0),
    entries     bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, customer_id, currency),
    FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, id)
) WITH (fillfactor = 50);

CREATE TABLE payments (
    tenant_id          uuid NOT NULL,
    id                 uuid NOT NULL,
    invoice_id         uuid NOT NULL,
    customer_id        uuid NOT NULL,
    external_reference text NOT NULL,
    amount             bigint NOT NULL CHECK (amount > 0),
    applied            bigint NOT NULL CHECK (applied BETWEEN 0 AND amount),
    currency           text NOT NULL,
    paid_at            timestamptz NOT NULL,
    created_at         timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, external_reference),
    FOREIGN KEY (tenant_id, invoice_id) REFERENCES invoices (tenant_id, id),
    FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, id)
);
CREATE INDEX payments_by_invoice ON payments (tenant_id, invoice_id, id);

CREATE TABLE credit_notes (
    tenant_id         uuid NOT NULL,
    id                uuid NOT NULL,
    invoice_id        uuid NOT NULL,
    customer_id       uuid NOT NULL,
    number            text NOT NULL,
    reason            text NOT NULL,
    currency          text NOT NULL,
    net               bigint NOT NULL CHECK (net > 0),
    tax               bigint NOT NULL CHECK (tax >= 0),
    total             bigint NOT NULL CHECK (total = net + tax),
    lowers_due        bigint NOT NULL CHECK (lowers_due >= 0),
    to_credit_balance bigint NOT NULL CHECK (to_credit_balance >= 0),
    parties           jsonb,
    issued_at         timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, number),
    FOREIGN KEY (tenant_id, invoice_id) REFERENCES invoices (tenant_id, id),
    FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, id),
    CHECK (lowers_due + to_credit_balance = total)
);
CREATE INDEX credit_notes_by_invoice ON credit_notes (tenant_id, invoice_id, id);

CREATE TABLE credit_note_lines (
    tenant_id      uuid NOT NULL,
    credit_note_id uuid NOT NULL,
    invoice_id     uuid NOT NULL,
    line_number    integer NOT NULL,
    net            bigint NOT NULL CHECK (net > 0),
    tax            bigint NOT NULL,
    PRIMARY KEY (tenant_id, credit_note_id, line_number),
    FOREIGN KEY (tenant_id, credit_note_id) REFERENCES credit_notes (tenant_id, id),
    FOREIGN KEY (tenant_id, invoice_id, line_number) REFERENCES invoice_lines (tenant_id, invoice_id, line_number)
);
CREATE INDEX credit_note_lines_by_line ON credit_note_lines (tenant_id, invoice_id, line_number);

-- Append-only: every entry says what the balance was after it.
CREATE TABLE credit_ledger (
    tenant_id      uuid NOT NULL,
    id             uuid NOT NULL,
    customer_id    uuid NOT NULL,
    currency       text NOT NULL,
    sequence       bigint NOT NULL,
    kind           text NOT NULL CHECK (kind IN (
        'grant', 'adjustment', 'negative_total', 'applied', 'payment_excess', 'credit_note', 'void_return')),
    amount         bigint NOT NULL CHECK (amount <> 0),
    balance_after  bigint NOT NULL CHECK (balance_after >= 0),
    reason         text NOT NULL DEFAULT '',
    invoice_id     uuid,
    created_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, customer_id, currency, sequence),
    FOREIGN KEY (tenant_id, customer_id, currency) REFERENCES credit_balances (tenant_id, customer_id, currency),
    FOREIGN KEY (tenant_id, invoice_id) REFERENCES invoices (tenant_id, id)
);

-- Lines and discounts are written before the number is drawn, and never after.
CREATE FUNCTION refuse_addition_to_final_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM added a JOIN invoices i ON i.tenant_id = a.tenant_id AND i.id = a.invoice_id WHERE i.status <> 'draft'
    ) THEN
        RAISE EXCEPTION 'lines are written once, by finalizing their invoice' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER invoice_lines_added AFTER INSERT ON invoice_lines REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_addition_to_final_invoice();
CREATE TRIGGER invoice_discounts_added AFTER INSERT ON invoice_discounts REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_addition_to_final_invoice();

-- Who is who on an invoice of a customer, as the tables stand now. A view asks its invoker's rights.
CREATE VIEW invoice_parties WITH (security_invoker) AS
SELECT c.tenant_id, c.id AS customer_id, jsonb_build_object(
    'seller', jsonb_build_object(
        'name', coalesce(nullif(p.legal_name, ''), t.display_name), 'address', coalesce(p.address, ''),
        'tax_number', coalesce(p.tax_number, ''), 'email', coalesce(p.email, ''), 'website', coalesce(p.website, ''),
        'accent_color', coalesce(p.accent_color, ''),
        'payment_instructions', coalesce(p.payment_instructions, ''), 'footer', coalesce(p.footer, '')),
    'buyer', jsonb_build_object(
        'name', c.display_name, 'address', c.address, 'tax_number', c.tax_number, 'email', c.email)
) AS parties
FROM customers c
JOIN tenants t ON t.id = c.tenant_id
LEFT JOIN tenant_profiles p ON p.tenant_id = c.tenant_id;
GRANT SELECT ON invoice_parties TO tollway_api, tollway_worker;

CREATE FUNCTION refuse_change_of_record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are written once', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'invoice_discounts', 'payments', 'credit_notes', 'credit_note_lines', 'credit_ledger'
    ] LOOP
        EXECUTE format(
            'CREATE TRIGGER %I BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change_of_record()',
            name || '_final', name);
        EXECUTE format('GRANT SELECT, INSERT ON %I TO tollway_api, tollway_worker', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['credit_balances', 'discounts', 'tenant_profiles'] LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I TO tollway_api, tollway_worker', name);
    END LOOP;
    GRANT SELECT, INSERT, UPDATE, DELETE ON invoice_items TO tollway_api, tollway_worker;
    FOREACH name IN ARRAY ARRAY[
        'tenant_profiles', 'discounts', 'invoice_items', 'invoice_discounts', 'credit_balances', 'payments',
        'credit_notes', 'credit_note_lines', 'credit_ledger'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY one_tenant ON %I TO tollway_api USING (tenant_id = nullif(current_setting(''tollway.tenant'', true), '''')::uuid)',
            name);
    END LOOP;
END $$;
