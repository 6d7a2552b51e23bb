-- Replay path: what a filter matches, the replays that run, and how far they have come. The two statements over the log
-- name the tenant and a range of ids, which prunes its partitions; and they match by the very same conditions.

-- name: SummarizeMatching :many
-- What a filter matches, at most `most` events: a row per subject, per consumer that has handled some, and per
-- dispatch status of those that are not on the bus.
WITH matching AS MATERIALIZED (
    SELECT e.id, e.subject
    FROM billing_events e
    WHERE e.tenant_id = @tenant_id AND e.id BETWEEN @first::uuid AND @last::uuid
      AND (@any_subject::boolean OR e.subject = ANY (@subjects::text[])
           OR EXISTS (SELECT 1 FROM unnest(@beginnings::text[]) AS b (beginning)
                      WHERE starts_with(e.subject, b.beginning)))
      AND (sqlc.narg(resource)::text IS NULL OR e.resource = sqlc.narg(resource)::text)
      AND (sqlc.narg(correlation_id)::uuid IS NULL OR e.correlation_id = sqlc.narg(correlation_id)::uuid)
      AND (sqlc.narg(event_ids)::uuid[] IS NULL OR e.id = ANY (sqlc.narg(event_ids)::uuid[]))
    LIMIT @most::integer
)
SELECT 'subject'::text AS kind, m.subject::text AS name, count(*)::bigint AS events,
       min(m.id::text COLLATE "C")::uuid AS "first_id?", max(m.id::text COLLATE "C")::uuid AS "last_id?"
FROM matching m GROUP BY m.subject
UNION ALL
SELECT 'consumer', i.consumer, count(*), NULL::uuid, NULL::uuid
FROM matching m
JOIN inbox i ON i.consumer = ANY (@consumers::text[]) AND i.event_id = m.id
            AND i.event_id BETWEEN @first::uuid AND @last::uuid
GROUP BY i.consumer
UNION ALL
SELECT 'dispatch', d.dispatch_status, count(*), NULL::uuid, NULL::uuid
FROM matching m
JOIN event_dispatch_status d ON d.event_id = m.id
GROUP BY d.dispatch_status;

-- name: ListSlice :many
-- The next matching events by id, and what has become of each: whether its first publication, or this replay's, is
-- queued or dead; whether one of `consumers` has handled it; whether one of those that want it (consumer and subject
-- in pairs, '*' for every subject) has neither handled it nor has it waiting or dead.
SELECT s.id, s.subject, s.resource, s.resource_version,
       EXISTS (SELECT 1 FROM outbox o WHERE o.event_id = s.id AND o.purpose = 'first')::boolean AS unpublished,
       EXISTS (SELECT 1 FROM outbox_dead_letters d
               WHERE d.event_id = s.id AND d.purpose IN ('first', @purpose::text))::boolean AS dead,
       EXISTS (SELECT 1 FROM inbox i WHERE i.consumer = ANY (@consumers::text[]) AND i.event_id = s.id)::boolean
           AS processed,
       EXISTS (
           SELECT 1 FROM unnest(@wanting_consumers::text[], @wanted_subjects::text[]) AS w (consumer, subject)
           WHERE w.subject IN (s.subject, '*')
             AND NOT EXISTS (SELECT 1 FROM router_consumers c WHERE c.name = w.consumer AND s.id < c.first_event_id)
             AND NOT EXISTS (SELECT 1 FROM inbox i WHERE i.consumer = w.consumer AND i.event_id = s.id)
             AND NOT EXISTS (SELECT 1 FROM router_waiting p
                             WHERE p.consumer IN (w.consumer, '*') AND p.resource = s.resource
                               AND p.resource_version = s.resource_version AND p.event_id = s.id)
             AND NOT EXISTS (SELECT 1 FROM router_dead_letters x
                             WHERE x.consumer IN (w.consumer, '*') AND x.resource = s.resource
                               AND x.resource_version = s.resource_version AND x.event_id = s.id)
       )::boolean AS lacking
FROM (
    SELECT e.id, e.subject, e.resource, e.resource_version
    FROM billing_events e
    WHERE e.tenant_id = @tenant_id AND e.id BETWEEN @first::uuid AND @last::uuid
      AND (@any_subject::boolean OR e.subject = ANY (@subjects::text[])
           OR EXISTS (SELECT 1 FROM unnest(@beginnings::text[]) AS b (beginning)
                      WHERE starts_with(e.subject, b.beginning)))
      AND (sqlc.narg(resource)::text IS NULL OR e.resource = sqlc.narg(resource)::text)
      AND (sqlc.narg(correlation_id)::uuid IS NULL OR e.correlation_id = sqlc.narg(correlation_id)::uuid)
      AND (sqlc.narg(event_ids)::uuid[] IS NULL OR e.id = ANY (sqlc.narg(event_ids)::uuid[]))
    ORDER BY e.id
    LIMIT @most::integer
) AS s
ORDER BY s.id;

-- name: InsertReplay :one
-- No row when the token has been used or another replay of the tenant is running.
INSERT INTO replays (
    tenant_id, id, actor, note, plan, plan_hash, token_nonce, status, matched, armed_at, started_at)
VALUES (
    @tenant_id, @id, @actor, @note, @plan::jsonb, @plan_hash, @token_nonce, 'running', @matched, @now::timestamptz,
    @now::timestamptz)
ON CONFLICT DO NOTHING
RETURNING *;

-- name: FindReplayOfToken :one
SELECT id FROM replays WHERE token_nonce = @token_nonce;

-- name: FindRunningReplay :one
SELECT id FROM replays WHERE tenant_id = @tenant_id AND status = 'running';

-- name: GetReplay :one
-- Of one tenant, or of any when none is given.
SELECT * FROM replays
WHERE id = @id AND (sqlc.narg(tenant_id)::uuid IS NULL OR tenant_id = sqlc.narg(tenant_id)::uuid);

-- name: CountQueued :one
-- What a replay still has in the queue, and what the bus refused for good.
SELECT (SELECT count(*) FROM outbox o WHERE o.replay_id = @id)::bigint AS queued,
       (SELECT count(*) FROM outbox_dead_letters d WHERE d.replay_id = @id)::bigint AS dead;

-- name: ListRunning :many
-- The running replays after one of them, of all tenants.
SELECT tenant_id, id FROM replays WHERE status = 'running' AND id > @after ORDER BY id LIMIT @most::integer;

-- name: LockRunning :one
-- No row when it is finished, or when another worker is at it.
SELECT * FROM replays WHERE tenant_id = @tenant_id AND id = @id AND status = 'running' FOR NO KEY UPDATE SKIP LOCKED;

-- name: ArmReplay :execrows
-- Publications in the order given, behind all live ones. What is queued for this replay already stays as it is.
INSERT INTO outbox (event_id, purpose, tenant_id, shard, priority, position, subject, resource, replay_id)
SELECT g.event_id, @purpose, @tenant_id, g.hash % (SELECT shards FROM topology), 1, nextval('outbox_position'),
       g.subject, g.resource, @replay_id::uuid
FROM (
    SELECT t.event_id, t.subject, t.resource, t.hash
    FROM unnest(@event_ids::uuid[], @subjects::text[], @resources::text[], @hashes::bigint[])
         WITH ORDINALITY AS t (event_id, subject, resource, hash, place)
    ORDER BY t.place
) AS g
ON CONFLICT (event_id, purpose) DO NOTHING;

-- name: MoveArmed :execrows
-- An event that was committed into the range after the start counts as matched when it is sent.
UPDATE replays
SET armed = replays.armed + sqlc.arg(armed)::bigint, skipped = replays.skipped + sqlc.arg(skipped)::bigint,
    failed = replays.failed + sqlc.arg(failed)::bigint,
    matched = greatest(
        replays.matched,
        replays.armed + sqlc.arg(armed)::bigint + replays.failed + sqlc.arg(failed)::bigint),
    armed_until = @armed_until, armed_at = @armed_at
WHERE tenant_id = @tenant_id AND id = @id AND status = 'running';

-- name: MoveSettled :execrows
UPDATE replays SET settled_until = @settled_until, armed_at = @armed_at
WHERE tenant_id = @tenant_id AND id = @id AND status = 'running';

-- name: FinishReplay :one
-- Once. What the bus refused for good was armed in vain: it counts as failed.
UPDATE replays
SET status = 'finished', finished_at = @now::timestamptz, version = version + 1,
    armed = replays.armed - sqlc.arg(dead)::bigint, failed = replays.failed + sqlc.arg(dead)::bigint
WHERE tenant_id = @tenant_id AND id = @id AND status = 'running'
RETURNING *;

-- name: FindStartedEvent :one
-- The event that told of the start: the cause of the one that tells of the end.
SELECT id, correlation_id FROM billing_events
WHERE tenant_id = @tenant_id AND resource = @resource AND id >= @first::uuid
ORDER BY id LIMIT 1;
