-- Publish path, steps 2 and 4: the publications that are still to be made.

-- name: ListPending :many
-- The heads of queues, each a shard's rows of one priority: tenant by tenant from behind `after_tenant` on and round to
-- it, at most `per_tenant` rows of each in the order of their positions, and `per_queue` in all. So whoever is cut off is
-- the first of the next read, and the rows of a paused tenant, or of one that has had its share, are stepped over unread.
-- Left out are paused shards, rows that an earlier read is publishing just now (in_flight), and rows of a resource that
-- waits for an earlier row of the same purpose: one that was refused and is not due again, or a `first` one that is dead.
-- The two probes without a column of `q` run once per statement, and nearly always spare the probes per row.
SELECT o.event_id, o.purpose, o.tenant_id, o.shard, o.priority, o.position, o.subject, o.resource, o.target, o.replay_id,
       o.attempts
FROM unnest(@shards::smallint[], @priorities::smallint[], @after_tenants::uuid[], @per_tenant::integer[],
            @per_queue::integer[])
     AS s (shard, priority, after_tenant, per_tenant, per_queue)
CROSS JOIN LATERAL (
    SELECT h.event_id, h.purpose, h.tenant_id, h.shard, h.priority, h.position, h.subject, h.resource, h.target,
           h.replay_id, h.attempts, row_number() OVER () AS place
    FROM outbox_tenants(s.shard, s.priority, s.after_tenant) AS t (tenant_id)
    CROSS JOIN LATERAL (
        SELECT q.event_id, q.purpose, q.tenant_id, q.shard, q.priority, q.position, q.subject, q.resource, q.target,
               q.replay_id, q.attempts
        FROM outbox q
        WHERE q.shard = s.shard AND q.priority = s.priority AND q.tenant_id = t.tenant_id
          AND q.position NOT IN (SELECT f.position FROM unnest(@in_flight::bigint[]) AS f (position))
          AND (NOT (SELECT EXISTS (SELECT 1 FROM outbox r WHERE r.shard = ANY (@shards::smallint[]) AND r.attempts > 0))
               OR NOT EXISTS (
                   SELECT 1 FROM outbox r
                   WHERE r.shard = q.shard AND r.tenant_id = q.tenant_id AND r.resource = q.resource AND r.attempts > 0
                     AND r.position <= q.position AND r.purpose = q.purpose AND r.next_attempt_at > @now::timestamptz))
          AND (q.purpose <> 'first'
               OR NOT (SELECT EXISTS (SELECT 1 FROM outbox_dead_letters d WHERE d.purpose = 'first'))
               OR NOT EXISTS (
                   SELECT 1 FROM outbox_dead_letters d
                   WHERE d.tenant_id = q.tenant_id AND d.resource = q.resource AND d.purpose = 'first'
                     AND d.position < q.position))
        ORDER BY q.shard, q.priority, q.tenant_id, q.position
        LIMIT s.per_tenant
    ) AS h
    LIMIT s.per_queue
) AS o
WHERE s.shard NOT IN (SELECT x.shard FROM pauses x WHERE x.shard IS NOT NULL)
ORDER BY o.shard, o.priority, o.place;

-- name: ListRouted :many
-- How far each partition is routed, where a router is at work: it holds a lease that has not run out.
SELECT p.partition, p.stream_identity, p.last_sequence FROM router_positions p
JOIN leases l ON l.kind = 'router' AND l.shard = p.partition
WHERE p.partition = ANY (@partitions::smallint[]) AND l.holder IS NOT NULL AND l.expires_at > clock_timestamp();

-- name: ListEnvelopes :many
-- The envelopes of these events. One above `small_bytes` is left out, so that a read of many stays within memory: its
-- size tells how many of those to ask for apart. The range of ids prunes the partitions of the log.
SELECT id, occurred_at, octet_length(envelope)::integer AS bytes,
       (CASE WHEN octet_length(envelope) <= @small_bytes::integer THEN envelope END)::bytea AS "envelope?"
FROM billing_events
WHERE id BETWEEN @first::uuid AND @last::uuid AND id = ANY (@ids::uuid[]);

-- name: DeletePublished :execrows
-- Deletes what is on the bus, where the lease's term is still the one it was published under. Rows of one purpose, so
-- that the ids alone lead to them by the primary key. The commit is not waited for on the disk: should the server crash
-- at once, the rows are published again, as after a crash between publish and delete, and the bus drops what it has.
DELETE FROM outbox
WHERE outbox.event_id = ANY (@event_ids::uuid[]) AND outbox.purpose = @purpose
  AND outbox.shard IN (
      SELECT l.shard FROM leases l
      JOIN unnest(@shards::integer[], @terms::bigint[]) AS g (shard, term) ON g.shard = l.shard AND g.term = l.term
      CROSS JOIN set_config('synchronous_commit', 'off', true)
      WHERE l.kind = 'dispatcher');

-- name: PostponeRefused :execrows
-- Counts an attempt of each refused row that has one left, under the lease's term. One that its replay holds by now, by
-- an infinite time and one attempt (HoldQueued), stays held, and is spared that attempt here and in MoveToDeadLetters.
UPDATE outbox
SET attempts = outbox.attempts + 1, next_attempt_at = greatest(outbox.next_attempt_at, r.next_attempt_at),
    last_error = r.last_error
FROM unnest(@event_ids::uuid[], @purposes::text[], @next_attempt_ats::timestamptz[], @last_errors::text[])
     AS r (event_id, purpose, next_attempt_at, last_error)
WHERE outbox.event_id = r.event_id AND outbox.purpose = r.purpose AND outbox.attempts + 1 - (outbox.next_attempt_at IS NOT DISTINCT FROM 'infinity')::integer < @attempts_max::integer
  AND EXISTS (SELECT 1 FROM leases l WHERE l.kind = 'dispatcher' AND l.shard = outbox.shard AND l.term = @term);

-- name: MoveToDeadLetters :execrows
-- Refused for the last time: out of the queue and into the dead letters, under the lease's term.
WITH gone AS (
    DELETE FROM outbox USING unnest(@event_ids::uuid[], @purposes::text[]) AS p (event_id, purpose)
    WHERE outbox.event_id = p.event_id AND outbox.purpose = p.purpose
      AND outbox.attempts + 1 - (outbox.next_attempt_at IS NOT DISTINCT FROM 'infinity')::integer >= @attempts_max::integer
      AND EXISTS (SELECT 1 FROM leases l WHERE l.kind = 'dispatcher' AND l.shard = outbox.shard AND l.term = @term)
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
