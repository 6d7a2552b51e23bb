-- Publish path, steps 2 and 4: the publications that are still to be made.

-- name: ListPending :many
-- The head of each shard in the order of publishing: by priority, then position. Left out are rows of which
-- somebody publishes an earlier read just now (in_flight), and rows of a resource that waits for an earlier row of
-- the same purpose: one that was refused and is not due again, or a `first` one that is dead.
-- The two probes without a row of `o` run once per statement, and nearly always spare the probes per row.
SELECT o.event_id, o.purpose, o.tenant_id, o.shard, o.position, o.subject, o.resource, o.target, o.replay_id,
       o.attempts
FROM unnest(@shards::smallint[]) AS s (shard)
CROSS JOIN LATERAL (
    SELECT h.event_id, h.purpose, h.tenant_id, h.shard, h.priority, h.position, h.subject, h.resource, h.target,
           h.replay_id, h.attempts
    FROM outbox h
    WHERE h.shard = s.shard
      AND h.position NOT IN (SELECT f.position FROM unnest(@in_flight::bigint[]) AS f (position))
      AND (NOT (SELECT EXISTS (SELECT 1 FROM outbox r WHERE r.shard = ANY (@shards::smallint[]) AND r.attempts > 0))
           OR NOT EXISTS (
               SELECT 1 FROM outbox r
               WHERE r.shard = h.shard AND r.tenant_id = h.tenant_id AND r.resource = h.resource AND r.attempts > 0
                 AND r.position <= h.position AND r.purpose = h.purpose AND r.next_attempt_at > @now::timestamptz))
      AND (h.purpose <> 'first'
           OR NOT (SELECT EXISTS (SELECT 1 FROM outbox_dead_letters d WHERE d.purpose = 'first'))
           OR NOT EXISTS (
               SELECT 1 FROM outbox_dead_letters d
               WHERE d.tenant_id = h.tenant_id AND d.resource = h.resource AND d.purpose = 'first'
                 AND d.position < h.position))
    ORDER BY h.shard, h.priority, h.position
    LIMIT @per_shard::integer
) AS o
ORDER BY o.shard, o.priority, o.position;

-- name: ListEnvelopes :many
-- The envelopes in the order asked for, as many as fit into so many bytes, at least one. The range of ids prunes the
-- partitions of the log.
SELECT w.place::integer AS place, w.occurred_at, w.envelope
FROM (
    SELECT g.place, e.occurred_at, e.envelope, sum(octet_length(e.envelope)) OVER (ORDER BY g.place) AS bytes
    FROM unnest(@ids::uuid[]) WITH ORDINALITY AS g (id, place)
    JOIN billing_events e ON e.id = g.id
    WHERE e.id BETWEEN @first::uuid AND @last::uuid
) AS w
WHERE w.bytes <= @bytes_max::bigint OR w.place = 1
ORDER BY w.place;

-- name: DeletePublished :execrows
-- Deletes what is on the bus, where the lease's term is still the one it was published under.
DELETE FROM outbox USING unnest(@event_ids::uuid[], @purposes::text[]) AS p (event_id, purpose)
WHERE outbox.event_id = p.event_id AND outbox.purpose = p.purpose
  AND outbox.shard IN (
      SELECT l.shard FROM leases l
      JOIN unnest(@shards::integer[], @terms::bigint[]) AS g (shard, term) ON g.shard = l.shard AND g.term = l.term
      WHERE l.kind = 'dispatcher');

-- name: PostponeRefused :execrows
-- Counts an attempt of each refused row, under the lease's term.
UPDATE outbox SET attempts = outbox.attempts + 1, next_attempt_at = r.next_attempt_at, last_error = r.last_error
FROM unnest(@event_ids::uuid[], @purposes::text[], @next_attempt_ats::timestamptz[], @last_errors::text[])
     AS r (event_id, purpose, next_attempt_at, last_error)
WHERE outbox.event_id = r.event_id AND outbox.purpose = r.purpose
  AND EXISTS (SELECT 1 FROM leases l WHERE l.kind = 'dispatcher' AND l.shard = @shard AND l.term = @term);

-- name: MoveToDeadLetters :execrows
-- Refused for the last time: out of the queue and into the dead letters, under the lease's term.
WITH gone AS (
    DELETE FROM outbox USING unnest(@event_ids::uuid[], @purposes::text[]) AS p (event_id, purpose)
    WHERE outbox.event_id = p.event_id AND outbox.purpose = p.purpose
      AND EXISTS (SELECT 1 FROM leases l WHERE l.kind = 'dispatcher' AND l.shard = @shard AND l.term = @term)
    RETURNING outbox.*
)
INSERT INTO outbox_dead_letters (
    event_id, purpose, tenant_id, shard, priority, position, subject, resource, target, replay_id, attempts, last_error,
    died_at)
SELECT g.event_id, g.purpose, g.tenant_id, g.shard, g.priority, g.position, g.subject, g.resource, g.target,
       g.replay_id, g.attempts + 1, r.last_error, @now::timestamptz
FROM gone g
JOIN unnest(@event_ids::uuid[], @purposes::text[], @last_errors::text[]) AS r (event_id, purpose, last_error)
  ON r.event_id = g.event_id AND r.purpose = g.purpose
ORDER BY g.event_id, g.purpose;
