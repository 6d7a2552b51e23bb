-- The rim: what an operator has set of a tenant's limits, and how many usage records were accepted on each day.

-- NULL is the server's default.
CREATE TABLE tenant_limits (
    tenant_id uuid PRIMARY KEY REFERENCES tenants (id),
    requests_per_second integer CHECK (requests_per_second > 0),
    records_per_second integer CHECK (records_per_second > 0),
    streams integer CHECK (streams > 0),
    records_per_day bigint CHECK (records_per_day >= 0),
    records_per_month bigint CHECK (records_per_month >= 0),
    version integer NOT NULL DEFAULT 1,
    updated_at timestamptz NOT NULL
);

-- Written every few seconds by each server process, apart from the transactions that accept the records: a row that each
-- of these updated would make them wait for each other.
CREATE TABLE usage_record_counts (
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    day date NOT NULL,
    records bigint NOT NULL CHECK (records >= 0),
    PRIMARY KEY (tenant_id, day)
);
CREATE INDEX usage_record_counts_old ON usage_record_counts (day);

ALTER TABLE tenant_limits ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_limits FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON tenant_limits TO tollway_api
    USING (tenant_id = nullif(current_setting('tollway.tenant', true), '')::uuid);
ALTER TABLE usage_record_counts ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_record_counts FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON usage_record_counts TO tollway_api
    USING (tenant_id = nullif(current_setting('tollway.tenant', true), '')::uuid);
GRANT SELECT ON tenant_limits, usage_record_counts TO tollway_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON tenant_limits, usage_record_counts TO tollway_worker;
