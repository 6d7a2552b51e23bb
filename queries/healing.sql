-- Sweeper: events that a consumer should have, and does not, are published again.

-- name: GetHealing :one
SELECT healed_until, version FROM healing;

-- name: FindSlice :one
-- The next events of the log after `after`, of at most `most`: the last of them, and whether one of them is still to be
-- published for the first time or healed.
WITH slice AS MATERIALIZED (
    SELECT e.id FROM billing_events e
    WHERE e.id > @after::uuid AND e.id < @before::uuid
    ORDER BY e.id
    LIMIT @most::integer
)
SELECT (SELECT s.id FROM slice s ORDER BY s.id DESC LIMIT 1)::uuid AS "last?",
       EXISTS (SELECT 1 FROM slice s JOIN outbox o ON o.event_id = s.id WHERE o.replay_id IS NULL)::boolean AS queued;

-- name: ListLacking :many
-- Events of a slice that some consumer should have, and that are nowhere for it: not handled, not waiting (under `*`
-- counts for all), not dead, and not in the outbox or its dead letters.
SELECT e.id, e.tenant_id, e.subject, e.resource, e.resource_version FROM billing_events e
WHERE e.id > @after::uuid AND e.id <= @last::uuid
  AND EXISTS (
      SELECT 1 FROM unnest(@consumers::text[], @subjects::text[]) AS w (consumer, subject)
      WHERE w.subject IN ('*', e.subject)
        AND NOT EXISTS (SELECT 1 FROM router_consumers c WHERE c.name = w.consumer AND e.id < c.first_event_id)
        AND NOT EXISTS (SELECT 1 FROM inbox i WHERE i.consumer = w.consumer AND i.event_id = e.id)
        AND NOT EXISTS (
            SELECT 1 FROM router_waiting p WHERE p.event_id = e.id AND p.consumer IN (w.consumer, '*'))
        AND NOT EXISTS (SELECT 1 FROM router_dead_letters d WHERE d.consumer = w.consumer AND d.event_id = e.id))
  AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.event_id = e.id AND o.replay_id IS NULL)
  AND NOT EXISTS (SELECT 1 FROM outbox_dead_letters d WHERE d.event_id = e.id);

-- name: ArmHealing :execrows
-- Decided once more, and armed, in one statement.
INSERT INTO outbox (event_id, purpose, tenant_id, shard, priority, position, subject, resource)
SELECT g.event_id, 'heal_' || nextval('heal_numbers'), g.tenant_id, g.hash % (SELECT shards FROM topology), 1,
       nextval('outbox_position'), g.subject, g.resource
FROM (
    SELECT t.event_id, t.tenant_id, t.subject, t.resource, t.hash
    FROM unnest(@event_ids::uuid[], @tenant_ids::uuid[], @subjects::text[], @resources::text[], @hashes::bigint[])
         WITH ORDINALITY AS t (event_id, tenant_id, subject, resource, hash, place)
    WHERE EXISTS (
        SELECT 1 FROM unnest(@consumers::text[], @wanted_subjects::text[]) AS w (consumer, subject)
        WHERE w.subject IN ('*', t.subject)
          AND NOT EXISTS (SELECT 1 FROM router_consumers c WHERE c.name = w.consumer AND t.event_id < c.first_event_id)
          AND NOT EXISTS (SELECT 1 FROM inbox i WHERE i.consumer = w.consumer AND i.event_id = t.event_id)
          AND NOT EXISTS (
              SELECT 1 FROM router_waiting p WHERE p.event_id = t.event_id AND p.consumer IN (w.consumer, '*'))
          AND NOT EXISTS (
              SELECT 1 FROM router_dead_letters d WHERE d.consumer = w.consumer AND d.event_id = t.event_id))
      AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.event_id = t.event_id AND o.replay_id IS NULL)
      AND NOT EXISTS (SELECT 1 FROM outbox_dead_letters d WHERE d.event_id = t.event_id)
    ORDER BY t.place
) AS g;

-- name: MoveHealed :execrows
-- Compare-and-set.
UPDATE healing SET healed_until = @healed_until, version = version + 1 WHERE version = @version;

-- name: HealAgain :exec
-- An event that was given up is to be published after all: it, and what follows, is checked again.
UPDATE healing SET healed_until = least(healed_until, @before::uuid), version = version + 1
WHERE singleton;
