-- Invoice path, step 6: how long customers have to pay, and that an invoice is due, told once.

-- Days of the customer's calendar: the customer's own, else the tenant's, else the services' default.
ALTER TABLE customers ADD COLUMN payment_terms_days integer CHECK (payment_terms_days BETWEEN 0 AND 365);
ALTER TABLE tenant_profiles ADD COLUMN payment_terms_days integer CHECK (payment_terms_days BETWEEN 0 AND 365);

-- due_at is fixed when the invoice becomes final; due_told_at says that invoice.due is emitted.
ALTER TABLE invoices ADD COLUMN due_at timestamptz, ADD COLUMN due_told_at timestamptz;
ALTER TABLE invoices DISABLE TRIGGER invoices_final;
UPDATE invoices SET due_at = finalized_at + interval '30 days' WHERE status <> 'draft';
ALTER TABLE invoices ENABLE TRIGGER invoices_final;
ALTER TABLE invoices ADD CHECK (due_at >= finalized_at), ADD CHECK (due_told_at IS NULL OR due_at IS NOT NULL);
CREATE INDEX invoices_due_untold ON invoices (due_at, tenant_id, id) WHERE status = 'open' AND due_told_at IS NULL;
-- A tenant with a test clock has its own time, and its due rows are sought by it.
CREATE INDEX invoices_due_untold_by_tenant ON invoices (tenant_id, due_at, id)
    WHERE status = 'open' AND due_told_at IS NULL;

-- A final invoice never changes, whoever asks: what does not stand in `moving` stays; that it is due is told once.
CREATE OR REPLACE FUNCTION refuse_change_of_final_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moving CONSTANT text[] := ARRAY[
        'status', 'waived', 'voided_at', 'void_reason', 'amount_due', 'amount_paid', 'amount_credited', 'version',
        'due_told_at'];
BEGIN
    IF TG_OP = 'DELETE'
        OR NOT (NEW.status = OLD.status OR (OLD.status = 'open' AND NEW.status IN ('paid', 'void')))
        OR (OLD.status = 'void' AND NEW.waived <> OLD.waived)
        OR NEW.amount_paid < OLD.amount_paid OR NEW.amount_credited < OLD.amount_credited
        OR (NEW.due_told_at IS DISTINCT FROM OLD.due_told_at AND (OLD.due_told_at IS NOT NULL OR OLD.status <> 'open'))
        OR to_jsonb(NEW) - moving <> to_jsonb(OLD) - moving
    THEN
        RAISE EXCEPTION 'invoice % is final and cannot be changed', OLD.number USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
