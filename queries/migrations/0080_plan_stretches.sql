-- Invoice path, step 4: which plans' commitments a billing period owes when it changed its plan on the way.

-- From starts_at on the period owes this plan's commitment. A period without rows owes that of its cycle's plan. Written
-- under the subscription's lock.
CREATE TABLE plan_stretches (
    tenant_id       uuid NOT NULL,
    subscription_id uuid NOT NULL,
    starts_at       timestamptz NOT NULL,
    plan_id         uuid NOT NULL,
    PRIMARY KEY (tenant_id, subscription_id, starts_at),
    FOREIGN KEY (tenant_id, subscription_id) REFERENCES subscriptions (tenant_id, id),
    FOREIGN KEY (tenant_id, plan_id) REFERENCES plans (tenant_id, id)
);
ALTER TABLE plan_stretches ENABLE ROW LEVEL SECURITY;
ALTER TABLE plan_stretches FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON plan_stretches TO tollway_api
    USING (tenant_id = nullif(current_setting('tollway.tenant', true), '')::uuid);
GRANT SELECT, INSERT, DELETE ON plan_stretches TO tollway_api, tollway_worker;
