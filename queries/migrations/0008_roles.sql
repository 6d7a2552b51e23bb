-- What the roles may do. The API is bound to one tenant by row-level security; workers and operators are not, since a
-- batch spans tenants. Nothing is granted on partitions: a policy on the parent does not guard a partition that is
-- addressed directly. After one set_config a pooled connection reads '' and not null, hence the nullif.
GRANT USAGE ON SCHEMA public TO tollway_api, tollway_worker;
GRANT SELECT ON topology TO tollway_api, tollway_worker;
GRANT USAGE ON SEQUENCE outbox_position TO tollway_api, tollway_worker;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'billing_events', 'event_links', 'outbox', 'outbox_dead_letters', 'router_waiting', 'router_dead_letters', 'inbox',
        'tenants', 'api_keys', 'test_clocks', 'idempotent_requests', 'audit_log',
        'meters', 'plans', 'prices', 'customers', 'subscriptions', 'subscription_items',
        'usage_records', 'usage_periods', 'usage_period_marks', 'usage_buckets', 'charges',
        'billing_cycles', 'invoices', 'invoice_lines', 'invoice_sequences',
        'webhooks', 'webhook_secrets', 'webhook_deliveries', 'webhook_delivery_attempts', 'webhook_dlq',
        'webhook_matched', 'webhook_filtered', 'replays'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY one_tenant ON %I TO tollway_api USING (%I = nullif(current_setting(''tollway.tenant'', true), '''')::uuid)',
            name, CASE WHEN name = 'tenants' THEN 'id' ELSE 'tenant_id' END);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO tollway_api, tollway_worker', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['leases', 'lease_members', 'router_positions', 'webhook_claims'] LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO tollway_worker', name);
    END LOOP;
END $$;
GRANT SELECT ON event_dispatch_status TO tollway_api, tollway_worker;
-- Facts are written once.
REVOKE UPDATE, DELETE ON billing_events, event_links, audit_log FROM tollway_api, tollway_worker;
REVOKE INSERT, UPDATE, DELETE ON tenants, api_keys FROM tollway_api;
GRANT INSERT, UPDATE ON api_keys TO tollway_api;
