-- The schema of the plugin's tests: every type, and every kind of DDL that migrations use.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sqlc_plugin_reader') THEN
        CREATE ROLE sqlc_plugin_reader NOLOGIN;
    END IF;
END
$$;

CREATE TYPE mood AS ENUM ('calm', 'past-due', '2nd');
CREATE SEQUENCE positions CACHE 1;

CREATE TABLE specimens (
    id uuid PRIMARY KEY,
    flag boolean NOT NULL,
    small smallint NOT NULL,
    medium integer NOT NULL,
    large bigint NOT NULL,
    ratio double precision NOT NULL,
    amount numeric(30, 6) NOT NULL,
    note text NOT NULL,
    code varchar(40) NOT NULL,
    currency char(3) NOT NULL,
    body bytea NOT NULL,
    day date NOT NULL,
    at timestamptz NOT NULL,
    span interval NOT NULL,
    document jsonb NOT NULL,
    raw json NOT NULL,
    address inet NOT NULL,
    network cidr NOT NULL,
    mood mood NOT NULL
);
COMMENT ON TABLE specimens IS 'One value of every type.';
COMMENT ON COLUMN specimens.amount IS 'In minor units, with six digits behind.';

-- The same, where NULL may stand. Not one name of a Python module or keyword may hurt.
CREATE TABLE maybes (
    id uuid PRIMARY KEY,
    flag boolean,
    large bigint,
    ratio double precision,
    amount numeric,
    "class" text,
    uuid uuid,
    body bytea,
    datetime timestamptz,
    span interval,
    document jsonb,
    address inet,
    mood mood,
    words text[],
    moods mood[]
);

CREATE TABLE batches (
    id uuid PRIMARY KEY,
    flags boolean[] NOT NULL,
    smalls smallint[] NOT NULL,
    numbers integer[] NOT NULL,
    larges bigint[] NOT NULL,
    amounts numeric[] NOT NULL,
    words text[] NOT NULL,
    bodies bytea[] NOT NULL,
    ids uuid[] NOT NULL,
    times timestamptz[] NOT NULL,
    addresses inet[] NOT NULL,
    moods mood[] NOT NULL
);

CREATE TABLE invoices (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'final')),
    total bigint NOT NULL CHECK (total >= 0),
    total_doubled bigint NOT NULL GENERATED ALWAYS AS (total * 2) STORED,
    position bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    finalized_at timestamptz,
    PRIMARY KEY (tenant_id, id)
);
CREATE UNIQUE INDEX one_draft ON invoices (tenant_id) INCLUDE (total) WHERE status = 'draft';
ALTER TABLE invoices ENABLE ROW LEVEL SECURITY;
ALTER TABLE invoices FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON invoices
    USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid);
GRANT SELECT, INSERT ON invoices TO sqlc_plugin_reader;

CREATE TABLE invoice_lines (
    tenant_id uuid NOT NULL,
    invoice_id uuid NOT NULL,
    number integer NOT NULL,
    label text,
    amount bigint NOT NULL,
    PRIMARY KEY (tenant_id, invoice_id, number)
);

CREATE TABLE usage_records (
    at timestamptz NOT NULL,
    id uuid NOT NULL,
    quantity bigint NOT NULL,
    PRIMARY KEY (at, id)
) PARTITION BY RANGE (at);
CREATE TABLE usage_records_2026_01 PARTITION OF usage_records
    FOR VALUES FROM ('2026-01-01+00') TO ('2026-02-01+00');
CREATE TABLE usage_records_rest PARTITION OF usage_records DEFAULT;

CREATE TABLE inbox (
    consumer text NOT NULL,
    event_id uuid NOT NULL,
    PRIMARY KEY (consumer, event_id)
) PARTITION BY HASH (event_id);
CREATE TABLE inbox_0 PARTITION OF inbox FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE inbox_1 PARTITION OF inbox FOR VALUES WITH (MODULUS 2, REMAINDER 1);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'usage is never changed';
END
$$;
CREATE TRIGGER usage_is_append_only BEFORE UPDATE OR DELETE ON usage_records
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
REVOKE ALL ON SCHEMA public FROM PUBLIC;
