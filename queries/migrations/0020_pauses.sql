-- Publish path and router: what operators have paused, and claims that are fair across tenants.

-- One row per paused shard of the dispatcher, consumer of the router, or tenant. `resumed_at` is set while what had
-- waited is let through; then the row goes. Changed under the lock of all position rows, which every transaction of the
-- router begins with, so that a pause comes before a cycle or after it.
CREATE TABLE pauses (
    shard      smallint,
    consumer   text,
    tenant_id  uuid REFERENCES tenants (id),
    reason     text NOT NULL,
    actor      text NOT NULL,
    paused_at  timestamptz NOT NULL,
    resumed_at timestamptz,
    CHECK (num_nonnulls(shard, consumer, tenant_id) = 1),
    UNIQUE NULLS NOT DISTINCT (shard, consumer, tenant_id)
);
ALTER TABLE pauses ENABLE ROW LEVEL SECURITY;
ALTER TABLE pauses FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON pauses TO tollway_api
    USING (tenant_id = nullif(current_setting('tollway.tenant', true), '')::uuid);
GRANT SELECT ON pauses TO tollway_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON pauses TO tollway_worker;

-- Parked by a pause, or behind such a row: it holds back its resource for unordered consumers too, so that all go through
-- in order afterwards. While the pause lasts its time is infinite, and no look for what is due meets it.
ALTER TABLE router_waiting ADD COLUMN paused boolean NOT NULL DEFAULT false;
CREATE INDEX router_waiting_still_of_consumer ON router_waiting (consumer, partition, event_id)
    WHERE next_attempt_at = 'infinity';
CREATE INDEX router_waiting_still_of_tenant ON router_waiting (tenant_id, partition, event_id)
    WHERE next_attempt_at = 'infinity';
-- Operators page through what waits for a consumer.
CREATE INDEX router_waiting_by_consumer ON router_waiting (consumer, event_id);

-- The dispatcher goes from tenant to tenant, in order within each: a backlog of one delays no other, and a paused tenant's
-- rows are stepped over at once, however many they are.
DROP INDEX outbox_in_order;
CREATE UNIQUE INDEX outbox_in_order ON outbox (shard, priority, tenant_id, position);
-- The tenants with something pending in a shard, from behind `after_tenant` on and round to it, without those that are
-- paused: from one to the next by the index, so that it costs a step per tenant, whatever each has waiting. The planner
-- takes it into the calling statement, which stops when it has enough.
CREATE FUNCTION outbox_tenants(in_shard smallint, in_priority smallint, after_tenant uuid)
RETURNS SETOF uuid LANGUAGE sql STABLE AS $$
    WITH RECURSIVE ring AS (
        SELECT after_tenant AS tenant_id, 0 AS lap, false AS pending
        UNION ALL
        SELECT n.tenant_id, n.lap, true
        FROM ring r
        CROSS JOIN LATERAL (
            (SELECT q.tenant_id, r.lap FROM outbox q
             WHERE q.shard = in_shard AND q.priority = in_priority AND q.tenant_id > r.tenant_id
               AND q.tenant_id <= CASE r.lap WHEN 0 THEN 'ffffffff-ffff-ffff-ffff-ffffffffffff' ELSE after_tenant END
             ORDER BY q.tenant_id LIMIT 1)
            UNION ALL
            (SELECT q.tenant_id, 1 FROM outbox q
             WHERE q.shard = in_shard AND q.priority = in_priority AND r.lap = 0 AND q.tenant_id <= after_tenant
             ORDER BY q.tenant_id LIMIT 1)
            LIMIT 1
        ) AS n
    )
    SELECT ring.tenant_id FROM ring
    WHERE ring.pending
      AND ring.tenant_id NOT IN (SELECT p.tenant_id FROM pauses p WHERE p.tenant_id IS NOT NULL AND p.resumed_at IS NULL)
$$;
