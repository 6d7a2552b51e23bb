-- Webhook path: what is parked, in the order in which a probe takes it and an endpoint that is enabled gets it.
CREATE INDEX webhook_deliveries_parked ON webhook_deliveries (tenant_id, webhook_id, event_id, nonce)
    WHERE status = 'parked';
