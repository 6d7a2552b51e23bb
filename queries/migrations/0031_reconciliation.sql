-- How far the comparison of buckets with records has come in its round over all usage periods: the key of the last one
-- compared, and when the last round came to its end. One row.
CREATE TABLE bucket_walk (
    id           boolean PRIMARY KEY DEFAULT true CHECK (id),
    tenant_id    uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    item_id      uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    period_start timestamptz NOT NULL DEFAULT 'epoch',
    finished_at  timestamptz
);
INSERT INTO bucket_walk DEFAULT VALUES;

-- The usage periods that were found to differ the last time they were compared, and in how many hour buckets.
CREATE TABLE bucket_differences (
    tenant_id    uuid NOT NULL,
    item_id      uuid NOT NULL,
    period_start timestamptz NOT NULL,
    buckets      bigint NOT NULL CHECK (buckets > 0),
    found_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, item_id, period_start),
    FOREIGN KEY (tenant_id, item_id) REFERENCES subscription_items (tenant_id, id)
);

ALTER TABLE bucket_differences ENABLE ROW LEVEL SECURITY;
ALTER TABLE bucket_differences FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON bucket_differences TO tollway_api
    USING (tenant_id = nullif(current_setting('tollway.tenant', true), '')::uuid);
GRANT SELECT ON bucket_differences TO tollway_api;
-- Where the walk stands is of another tenant's; only when it last came round is anybody's.
GRANT SELECT (id, finished_at) ON bucket_walk TO tollway_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON bucket_differences TO tollway_worker;
GRANT SELECT, UPDATE ON bucket_walk TO tollway_worker;
