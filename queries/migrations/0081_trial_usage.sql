-- Usage path, before step 2: a price may bill the usage of trials, which the activation's invoice then carries.
ALTER TABLE prices ADD COLUMN bill_trial_usage boolean NOT NULL DEFAULT false,
    ADD CHECK (meter_id IS NOT NULL OR NOT bill_trial_usage);

-- The items whose trial is billed, until when. What another system has billed is never.
CREATE VIEW billed_trials WITH (security_invoker = true) AS
SELECT i.tenant_id, i.id AS item_id, s.trial_end_at
FROM subscription_items i
JOIN subscriptions s ON s.tenant_id = i.tenant_id AND s.id = i.subscription_id
JOIN prices p ON p.tenant_id = i.tenant_id AND p.id = i.price_id
WHERE p.bill_trial_usage AND s.trial_end_at IS NOT NULL AND s.billed_until IS NULL;
GRANT SELECT ON billed_trials TO tollway_api, tollway_worker;
