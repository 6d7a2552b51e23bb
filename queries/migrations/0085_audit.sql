-- One row for every call that changes something, listed by its tenant, who did it, and what it was done to. Not even the
-- owner of the table changes a row.
ALTER TABLE audit_log ADD COLUMN request_id text NOT NULL DEFAULT '';
CREATE INDEX audit_log_by_id ON audit_log (id);
CREATE INDEX audit_log_by_actor ON audit_log (actor, id);
CREATE INDEX audit_log_by_resource ON audit_log (resource, id);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is written once', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER audit_log_is_written_once BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
