-- Invoice path: adjustments, what a line was computed from, void invoices, and immutability of every column.

-- What the amount was computed from, for whoever asks why: records, exact amount, share of the period, earlier amounts.
ALTER TABLE invoice_lines ADD COLUMN derivation jsonb NOT NULL;

-- A draft that was made again names the void invoice that it replaces.
ALTER TABLE invoices ADD COLUMN replaces uuid;
ALTER TABLE invoices ADD COLUMN voided_at timestamptz;
ALTER TABLE invoices ADD COLUMN void_reason text NOT NULL DEFAULT '';
ALTER TABLE invoices ADD FOREIGN KEY (tenant_id, replaces) REFERENCES invoices (tenant_id, id);
ALTER TABLE invoices ADD CHECK (NOT waived OR status = 'void');
ALTER TABLE invoices ADD CHECK ((status = 'void') = (voided_at IS NOT NULL));
CREATE UNIQUE INDEX invoices_replaced_once ON invoices (tenant_id, replaces) WHERE replaces IS NOT NULL;

-- Drafts whose time has come and that cannot be final.
CREATE INDEX invoices_blocked ON invoices (tenant_id, id) WHERE status = 'draft' AND blocked_reason IS NOT NULL;

-- Which billed usage periods of a subscription the next invoice adjusts.
CREATE INDEX usage_period_marks_adjust ON usage_period_marks (tenant_id, subscription_id) WHERE kind = 'adjust';

-- A final invoice never changes, whoever asks: what does not stand in `moving` stays, columns of later releases too.
CREATE OR REPLACE FUNCTION refuse_change_of_final_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moving CONSTANT text[] := ARRAY[
        'status', 'waived', 'voided_at', 'void_reason', 'amount_due', 'amount_paid', 'amount_credited', 'version'];
BEGIN
    IF TG_OP = 'DELETE'
        OR NOT (NEW.status = OLD.status OR (OLD.status = 'open' AND NEW.status IN ('paid', 'void')))
        OR (OLD.status = 'void' AND NEW.waived <> OLD.waived)
        OR NEW.amount_paid < OLD.amount_paid OR NEW.amount_credited < OLD.amount_credited
        OR to_jsonb(NEW) - moving <> to_jsonb(OLD) - moving
    THEN
        RAISE EXCEPTION 'invoice % is final and cannot be changed', OLD.number USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
DROP TRIGGER invoices_final ON invoices;
CREATE TRIGGER invoices_final BEFORE UPDATE OR DELETE ON invoices
    FOR EACH ROW WHEN (OLD.status <> 'draft') EXECUTE FUNCTION refuse_change_of_final_invoice();

-- With the record's meter, so that whoever asks for a period can name it: the planner then looks one meter up for each
-- period, instead of comparing every period with every meter.
CREATE OR REPLACE VIEW counted_usage WITH (security_invoker = true) AS
SELECT e.tenant_id, e.item_id, e.period_start, e.root_key, e.used_at, e.quantity,
       e.properties ->> m.unique_property AS unique_value,
       CASE WHEN m.group_by = '{}' THEN '' ELSE usage_group_key(m.group_by, e.properties) END AS group_key,
       e.meter_id
FROM effective_usage_records e
JOIN meters m ON m.tenant_id = e.tenant_id AND m.id = e.meter_id
WHERE e.item_id IS NOT NULL AND (m.filters = '[]' OR usage_passes(m.filters, e.properties));
