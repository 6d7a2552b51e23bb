-- Invoice path: adjustments, what a line was computed from, void invoices, and immutability of every column.

-- What kinds of lines there are is the code's to say (LineKind), and grows with it.
ALTER TABLE invoice_lines DROP CONSTRAINT invoice_lines_kind_check;
ALTER TABLE invoice_lines ADD CONSTRAINT invoice_lines_kind_check CHECK (kind ~ '^[a-z_]+$');
-- What the amount was computed from, for whoever asks why: records, exact amount, share of the period, earlier amounts.
ALTER TABLE invoice_lines ADD COLUMN derivation jsonb NOT NULL DEFAULT '{}';

-- A draft that was made again names the void invoice that it replaces.
ALTER TABLE invoices ADD COLUMN replaces uuid;
ALTER TABLE invoices ADD COLUMN voided_at timestamptz;
ALTER TABLE invoices ADD COLUMN void_reason text NOT NULL DEFAULT '';
ALTER TABLE invoices ADD FOREIGN KEY (tenant_id, replaces) REFERENCES invoices (tenant_id, id);
ALTER TABLE invoices ADD CHECK (NOT waived OR status = 'void');
ALTER TABLE invoices ADD CHECK ((status = 'void') = (voided_at IS NOT NULL));
CREATE UNIQUE INDEX invoices_replaced_once ON invoices (tenant_id, replaces) WHERE replaces IS NOT NULL;

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
        OR to_jsonb(NEW) - moving <> to_jsonb(OLD) - moving
    THEN
        RAISE EXCEPTION 'invoice % is final and cannot be changed', OLD.number USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
DROP TRIGGER invoices_final ON invoices;
CREATE TRIGGER invoices_final BEFORE UPDATE OR DELETE ON invoices
    FOR EACH ROW WHEN (OLD.status <> 'draft') EXECUTE FUNCTION refuse_change_of_final_invoice();

-- Nor does it get another line.
CREATE FUNCTION refuse_line_of_final_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM (SELECT DISTINCT a.tenant_id, a.invoice_id FROM added a) AS given
        JOIN invoices i ON i.tenant_id = given.tenant_id AND i.id = given.invoice_id
        WHERE i.status <> 'draft'
    ) THEN
        RAISE EXCEPTION 'lines are written once, by finalizing their invoice' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER invoice_lines_added AFTER INSERT ON invoice_lines REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_line_of_final_invoice();
