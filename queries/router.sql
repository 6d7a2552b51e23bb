-- Router: how far each partition has come, and the events that wait.

-- name: GetPosition :one
SELECT partition, stream_identity, last_sequence, term FROM router_positions WHERE partition = @partition;

-- name: ResetPosition :execrows
-- The stream is another one, or its beginning lies ahead. The feed counter stays.
UPDATE router_positions
SET stream_identity = @identity, last_sequence = @last_sequence, gaps = gaps + @gaps::bigint
WHERE partition = @partition AND term = @term AND stream_identity = @known_identity AND last_sequence = @known_sequence;

-- name: AdvanceAndMark :many
-- The first try of a cycle, in one statement: guarded positions first, so that a partition whose guard fails inserts
-- nothing; then the inbox rows of all consumers. `wanted` has bit n set for the consumer at place n.
-- Rows with a partition are the partitions whose guard held. The others, in the usual case none, are the pairs that
-- had been handled before. The comparison of the counts runs once and spares the join of all pairs.
WITH given AS (
    SELECT g.partition, g.term, g.identity, g.known_sequence, g.last_sequence
    FROM unnest(@partitions::smallint[], @terms::bigint[], @identities::text[], @known_sequences::bigint[],
                @last_sequences::bigint[])
         AS g (partition, term, identity, known_sequence, last_sequence)
), standing AS (
    SELECT p.partition FROM router_positions p
    JOIN given g ON g.partition = p.partition
    WHERE p.term = g.term AND p.stream_identity = g.identity AND p.last_sequence = g.known_sequence
    ORDER BY p.partition
    FOR NO KEY UPDATE OF p
), guarded AS (
    UPDATE router_positions SET last_sequence = g.last_sequence
    FROM given g JOIN standing s ON s.partition = g.partition
    WHERE router_positions.partition = g.partition AND router_positions.term = g.term
      AND router_positions.stream_identity = g.identity AND router_positions.last_sequence = g.known_sequence
    RETURNING router_positions.partition
), pairs AS (
    SELECT c.consumer, c.place::integer AS place, e.event_id, e.tenant_id
    FROM unnest(@consumers::text[]) WITH ORDINALITY AS c (consumer, place)
    JOIN unnest(@event_ids::uuid[], @tenant_ids::uuid[], @event_partitions::smallint[], @wanted::integer[])
         AS e (event_id, tenant_id, partition, wanted)
      ON (e.wanted >> (c.place::integer - 1)) & 1 = 1
    WHERE e.partition IN (SELECT guarded.partition FROM guarded)
), fresh AS (
    INSERT INTO inbox (consumer, event_id, tenant_id)
    SELECT pairs.consumer, pairs.event_id, pairs.tenant_id FROM pairs ORDER BY pairs.consumer, pairs.event_id
    ON CONFLICT DO NOTHING
    RETURNING consumer, event_id
)
SELECT guarded.partition::integer AS "partition?", NULL::integer AS "place?", NULL::uuid AS "event_id?" FROM guarded
UNION ALL
SELECT NULL, pairs.place - 1, pairs.event_id FROM pairs
WHERE (SELECT count(*) FROM fresh) <> (SELECT count(*) FROM pairs)
  AND (pairs.consumer, pairs.event_id) NOT IN (SELECT fresh.consumer, fresh.event_id FROM fresh);

-- name: LockPositions :many
-- The partitions that are still owned under these terms, locked; every transaction of the router begins so.
SELECT p.partition FROM router_positions p
JOIN unnest(@partitions::smallint[], @terms::bigint[]) AS g (partition, term)
  ON g.partition = p.partition AND g.term = p.term
ORDER BY p.partition
FOR NO KEY UPDATE OF p;

-- name: DeleteInbox :exec
-- An event that its handler sent to wait was not handled.
DELETE FROM inbox WHERE consumer = @consumer AND event_id = ANY (@event_ids::uuid[]);

-- name: InsertWaiting :exec
-- Parks events; parking one twice is a no-op.
INSERT INTO router_waiting (
    consumer, resource, resource_version, event_id, replay_id, tenant_id, partition, subject, attempts, next_attempt_at,
    last_error, paused, parked_at)
SELECT g.consumer, g.resource, g.resource_version, g.event_id, g.replay_id, g.tenant_id, g.partition, g.subject,
       g.attempts, coalesce(g.next_attempt_at, 'infinity'), g.last_error, g.paused, @now::timestamptz
FROM unnest(
    @consumers::text[], @resources::text[], @resource_versions::bigint[], @event_ids::uuid[], @replay_ids::uuid[],
    @tenant_ids::uuid[], @partitions::smallint[], @subjects::text[], @attempts::integer[],
    sqlc.narg(next_attempt_ats)::timestamptz[], @last_errors::text[], @paused::boolean[]
) AS g (consumer, resource, resource_version, event_id, replay_id, tenant_id, partition, subject, attempts,
        next_attempt_at, last_error, paused)
ORDER BY g.consumer, g.resource, g.resource_version, g.event_id, g.replay_id
ON CONFLICT DO NOTHING;

-- name: ListDueWaiting :many
-- What is due in these partitions, oldest due first. Of a resource of an ordered consumer, and of one under `*`, the
-- head alone, and for an ordered consumer nothing behind an event that stands under `*` or is dead. Of what a pause had
-- parked for the others, the head alone as well. Nothing of a consumer or tenant that is paused now.
SELECT w.* FROM router_waiting w
WHERE w.partition = ANY (@partitions::smallint[]) AND w.next_attempt_at <= @now
  AND NOT EXISTS (
      SELECT 1 FROM pauses p WHERE p.resumed_at IS NULL AND (p.consumer = w.consumer OR p.tenant_id = w.tenant_id))
  AND (w.consumer <> ALL (@ordered::text[]) OR NOT EXISTS (
      SELECT 1 FROM router_waiting e
      WHERE e.consumer = w.consumer AND e.resource = w.resource AND e.tenant_id = w.tenant_id
        AND (e.resource_version, e.event_id, e.replay_id) < (w.resource_version, w.event_id, w.replay_id)))
  AND (NOT w.paused OR NOT EXISTS (
      SELECT 1 FROM router_waiting e
      WHERE e.consumer = w.consumer AND e.resource = w.resource AND e.tenant_id = w.tenant_id AND e.paused
        AND (e.resource_version, e.event_id, e.replay_id) < (w.resource_version, w.event_id, w.replay_id)))
  AND (w.consumer <> ALL (@ordered::text[]) OR w.consumer = '*' OR NOT EXISTS (
      SELECT 1 FROM router_waiting s
      WHERE s.consumer = '*' AND s.resource = w.resource AND s.tenant_id = w.tenant_id
        AND s.resource_version < w.resource_version))
  AND (w.consumer <> ALL (@ordered::text[]) OR NOT EXISTS (
      SELECT 1 FROM router_dead_letters d
      WHERE d.consumer = w.consumer AND d.resource = w.resource AND d.tenant_id = w.tenant_id
        AND d.resource_version < w.resource_version))
ORDER BY w.next_attempt_at, w.event_id
LIMIT @most::integer;

-- name: ListLogged :many
-- Envelopes of the log by id; the range of ids prunes the partitions.
SELECT id, envelope FROM billing_events
WHERE id BETWEEN @first::uuid AND @last::uuid AND id = ANY (@ids::uuid[]);

-- name: DeleteWaiting :execrows
DELETE FROM router_waiting USING unnest(
    @consumers::text[], @resources::text[], @resource_versions::bigint[], @event_ids::uuid[], @replay_ids::uuid[]
) AS g (consumer, resource, resource_version, event_id, replay_id)
WHERE router_waiting.consumer = g.consumer AND router_waiting.resource = g.resource
  AND router_waiting.resource_version = g.resource_version AND router_waiting.event_id = g.event_id
  AND router_waiting.replay_id = g.replay_id;

-- name: PostponeWaiting :execrows
-- Of an unordered consumer, what was tried holds back nothing any more: it is `paused` no longer.
UPDATE router_waiting
SET attempts = g.attempts, next_attempt_at = g.next_attempt_at, last_error = g.last_error, paused = g.paused
FROM unnest(
    @consumers::text[], @resources::text[], @resource_versions::bigint[], @event_ids::uuid[], @replay_ids::uuid[],
    @attempts::integer[], @next_attempt_ats::timestamptz[], @last_errors::text[], @paused::boolean[]
) AS g (consumer, resource, resource_version, event_id, replay_id, attempts, next_attempt_at, last_error, paused)
WHERE router_waiting.consumer = g.consumer AND router_waiting.resource = g.resource
  AND router_waiting.resource_version = g.resource_version AND router_waiting.event_id = g.event_id
  AND router_waiting.replay_id = g.replay_id;

-- name: InsertRouterDeadLetters :exec
INSERT INTO router_dead_letters (
    consumer, resource, resource_version, event_id, replay_id, tenant_id, partition, subject, attempts, last_error,
    died_at)
SELECT g.consumer, g.resource, g.resource_version, g.event_id, g.replay_id, g.tenant_id, g.partition, g.subject,
       g.attempts, g.last_error, @now::timestamptz
FROM unnest(
    @consumers::text[], @resources::text[], @resource_versions::bigint[], @event_ids::uuid[], @replay_ids::uuid[],
    @tenant_ids::uuid[], @partitions::smallint[], @subjects::text[], @attempts::integer[], @last_errors::text[]
) AS g (consumer, resource, resource_version, event_id, replay_id, tenant_id, partition, subject, attempts, last_error)
ORDER BY g.consumer, g.resource, g.resource_version, g.event_id, g.replay_id
ON CONFLICT DO NOTHING;

-- name: ListPositions :many
-- Of the partitions that there are now; the positions of earlier ones stay for the sake of the feed.
SELECT partition, stream_identity, last_sequence FROM router_positions
WHERE partition < (SELECT t.shards FROM topology t)
ORDER BY partition;
