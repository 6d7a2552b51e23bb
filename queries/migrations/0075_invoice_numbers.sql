-- By number first: an index that begins with the tenant can be taken for the look-up of an invoice by its id, on a table
-- that was never analyzed, and then walks all of the tenant's drafts for each line that is written.
ALTER TABLE invoices DROP CONSTRAINT invoices_tenant_id_number_key;
CREATE UNIQUE INDEX invoices_by_number ON invoices (number, tenant_id) WHERE number IS NOT NULL;
