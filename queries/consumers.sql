-- Router and sweeper: from which event on each consumer should have what it wants.

-- name: RegisterConsumers :execrows
-- One that is new here begins with the events that are made from now on.
INSERT INTO router_consumers (name, first_event_id)
SELECT c.name, @first_event_id::uuid FROM unnest(@names::text[]) AS c (name)
ORDER BY c.name
ON CONFLICT DO NOTHING;

-- name: ListConsumerStarts :many
SELECT name, first_event_id FROM router_consumers ORDER BY name;
