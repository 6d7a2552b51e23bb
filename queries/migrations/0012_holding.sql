-- Router: what waits or is dead holds back its resource, so both are asked by resource in every cycle.
CREATE INDEX router_waiting_by_resource ON router_waiting (resource, tenant_id);
CREATE INDEX router_waiting_by_event ON router_waiting (event_id);
CREATE INDEX router_dead_letters_by_resource ON router_dead_letters (resource, tenant_id);

-- Operators name a dead letter by an id of its own, a UUIDv7 like all others.
CREATE FUNCTION dead_letter_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT overlay(replace(gen_random_uuid()::text, '-', '')
                   PLACING lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || '7'
                   FROM 1 FOR 13)::uuid
$$;
ALTER TABLE outbox_dead_letters ADD COLUMN id uuid NOT NULL UNIQUE DEFAULT dead_letter_id();
ALTER TABLE router_dead_letters ADD COLUMN id uuid NOT NULL UNIQUE DEFAULT dead_letter_id();

-- Up to which event of the log everything is known to have reached every consumer that should have it. The version
-- counts the changes, so that a check that was overtaken by a redrive moves nothing.
CREATE TABLE healing (
    singleton    boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    healed_until uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    version      bigint NOT NULL DEFAULT 0
);
INSERT INTO healing DEFAULT VALUES;
GRANT SELECT, UPDATE ON healing TO tollway_worker;
-- Numbers the publications that heal, so that none has the bus id of another.
CREATE SEQUENCE heal_numbers;
GRANT USAGE ON SEQUENCE heal_numbers TO tollway_worker;
