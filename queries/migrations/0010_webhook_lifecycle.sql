-- Webhook path: what an endpoint may be changed to, and its end. A deleted endpoint stays, so that history reads.
ALTER TABLE webhooks DROP CONSTRAINT webhooks_status_check;
ALTER TABLE webhooks ADD CONSTRAINT webhooks_status_check CHECK (status IN ('enabled', 'disabled', 'deleted'));
-- Why it is disabled; empty when it is not.
ALTER TABLE webhooks ADD COLUMN disabled_reason text NOT NULL DEFAULT ''
    CHECK (disabled_reason IN ('', 'tenant', 'gone'));
-- Objects of strings: sent with every request, and kept for the tenant.
ALTER TABLE webhooks ADD COLUMN headers jsonb NOT NULL DEFAULT '{}';
ALTER TABLE webhooks ADD COLUMN metadata jsonb NOT NULL DEFAULT '{}';
-- 'fat' sends the event's data, 'thin' its ids alone.
ALTER TABLE webhooks ADD COLUMN payload text NOT NULL DEFAULT 'fat' CHECK (payload IN ('fat', 'thin'));
