-- Router and sweeper: from which event on each consumer should have what it wants.

-- An event with a lower id is none of the consumer's: a new one does not get the history. Ids are UUIDv7, so that is a
-- time; the consumers that were there from the beginning have none. Whoever takes a consumer out of the code deletes its
-- row in a migration: healing stands still while there is a consumer that it does not know.
CREATE TABLE router_consumers (
    name           text PRIMARY KEY,
    first_event_id uuid NOT NULL,
    registered_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO router_consumers (name, first_event_id)
SELECT name, '00000000-0000-0000-0000-000000000000'
FROM unnest(ARRAY['subscription', 'usage', 'scheduler', 'invoice', 'webhooks', 'feed']) AS founders (name);
GRANT SELECT ON router_consumers TO tollway_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON router_consumers TO tollway_worker;
