-- Replay path: what a filter matches, the replays that run, and how far they have come. The two statements over the log
-- name the tenant and a range of ids, which prunes its partitions; and they match by the very same conditions.

-- name: SummarizeMatching :many
-- What a filter matches, at most `most` events: a row per subject, per consumer that has handled some, per dispatch
-- status of those that are not on the bus, per tenant, per status of an endpoint's deliveries, and per consumer that has
-- given some up ('' is the dispatcher).
WITH matching AS MATERIALIZED (
    SELECT e.id, e.subject, e.tenant_id
    FROM billing_events e
    WHERE (sqlc.narg(tenant_id)::uuid IS NULL OR e.tenant_id = sqlc.narg(tenant_id)::uuid)
      AND e.id BETWEEN @first::uuid AND @last::uuid
      AND (@any_subject::boolean OR e.subject = ANY (@subjects::text[])
           OR EXISTS (SELECT 1 FROM unnest(@beginnings::text[]) AS b (beginning)
                      WHERE starts_with(e.subject, b.beginning)))
      AND (sqlc.narg(resource)::text IS NULL OR e.resource = sqlc.narg(resource)::text)
      AND (sqlc.narg(correlation_id)::uuid IS NULL OR e.correlation_id = sqlc.narg(correlation_id)::uuid)
      AND (sqlc.narg(event_ids)::uuid[] IS NULL OR e.id = ANY (sqlc.narg(event_ids)::uuid[]))
      AND (@status::text <> 'dispatched' OR NOT EXISTS (
          SELECT 1 FROM event_dispatch_status d WHERE d.event_id = e.id))
      AND (@status::text <> 'dead_letter'
           OR EXISTS (SELECT 1 FROM outbox_dead_letters d WHERE d.event_id = e.id)
           OR EXISTS (SELECT 1 FROM router_dead_letters d WHERE d.event_id = e.id AND d.resource = e.resource))
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
GROUP BY d.dispatch_status
UNION ALL
SELECT 'tenant', m.tenant_id::text, count(*), min(m.id::text COLLATE "C")::uuid, max(m.id::text COLLATE "C")::uuid
FROM matching m GROUP BY m.tenant_id
UNION ALL
SELECT 'delivery', w.status, count(*), NULL::uuid, NULL::uuid
FROM matching m
JOIN webhook_deliveries w ON w.tenant_id = m.tenant_id AND w.webhook_id = sqlc.narg(webhook_id)::uuid
                         AND w.event_id = m.id AND w.nonce = 0
GROUP BY w.status
UNION ALL
SELECT 'dead', x.consumer, count(*), NULL::uuid, NULL::uuid
FROM matching m
JOIN (SELECT d.event_id, ''::text AS consumer FROM outbox_dead_letters d
      UNION ALL SELECT d.event_id, d.consumer FROM router_dead_letters d) AS x ON x.event_id = m.id
GROUP BY x.consumer;

-- name: ListSlice :many
-- The next matching events by id, and what has become of each: whether its first publication, or this replay's, is
-- queued or dead; whether one of `consumers` has handled it; whether one of those that want it (consumer and subject
-- in pairs, '*' for every subject) has neither handled it nor has it waiting or dead.
SELECT s.id, s.subject, s.resource, s.resource_version,
       EXISTS (SELECT 1 FROM outbox o WHERE o.event_id = s.id AND o.purpose = 'first')::boolean AS unpublished,
       EXISTS (SELECT 1 FROM outbox_dead_letters d
               WHERE d.event_id = s.id AND (d.purpose = 'first' OR d.replay_id = @replay_id::uuid))::boolean AS dead,
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
    WHERE (sqlc.narg(tenant_id)::uuid IS NULL OR e.tenant_id = sqlc.narg(tenant_id)::uuid)
      AND e.id BETWEEN @first::uuid AND @last::uuid
      AND (@any_subject::boolean OR e.subject = ANY (@subjects::text[])
           OR EXISTS (SELECT 1 FROM unnest(@beginnings::text[]) AS b (beginning)
                      WHERE starts_with(e.subject, b.beginning)))
      AND (sqlc.narg(resource)::text IS NULL OR e.resource = sqlc.narg(resource)::text)
      AND (sqlc.narg(correlation_id)::uuid IS NULL OR e.correlation_id = sqlc.narg(correlation_id)::uuid)
      AND (sqlc.narg(event_ids)::uuid[] IS NULL OR e.id = ANY (sqlc.narg(event_ids)::uuid[]))
      AND (@status::text <> 'dispatched' OR NOT EXISTS (
          SELECT 1 FROM event_dispatch_status d WHERE d.event_id = e.id))
      AND (@status::text <> 'dead_letter'
           OR EXISTS (SELECT 1 FROM outbox_dead_letters d WHERE d.event_id = e.id)
           OR EXISTS (SELECT 1 FROM router_dead_letters d WHERE d.event_id = e.id AND d.resource = e.resource))
    ORDER BY e.id
    LIMIT @most::integer
) AS s
ORDER BY s.id;

-- name: InsertReplay :one
-- No row when the token has been used or another replay of the tenant is active on the target.
INSERT INTO replays (
    tenant_id, id, actor, note, plan, plan_hash, token_nonce, status, target, matched, armed_at, started_at)
VALUES (
    @tenant_id, @id, @actor, @note, @plan::jsonb, @plan_hash, @token_nonce, 'running', @target, @matched,
    @now::timestamptz, @now::timestamptz)
ON CONFLICT DO NOTHING
RETURNING *;

-- name: FindReplayOfToken :one
SELECT id FROM replays
WHERE token_nonce = @token_nonce AND (sqlc.narg(tenant_id)::uuid IS NULL OR tenant_id = sqlc.narg(tenant_id)::uuid)
ORDER BY id LIMIT 1;

-- name: FindActiveReplay :one
SELECT id FROM replays WHERE tenant_id = @tenant_id AND target = @target AND status IN ('running', 'paused');

-- name: ListReplays :many
-- The newest first, before one of them.
SELECT * FROM replays
WHERE (sqlc.narg(tenant_id)::uuid IS NULL OR tenant_id = sqlc.narg(tenant_id)::uuid)
  AND (@status::text = '' OR status = @status::text)
  AND (sqlc.narg(before)::uuid IS NULL OR id < sqlc.narg(before)::uuid)
ORDER BY id DESC
LIMIT @most::integer;

-- name: LockReplay :one
SELECT * FROM replays
WHERE id = @id AND (sqlc.narg(tenant_id)::uuid IS NULL OR tenant_id = sqlc.narg(tenant_id)::uuid)
FOR NO KEY UPDATE;

-- name: MoveReplay :one
-- By hand or by an error. Accepting failures is what resuming does. What is not sent any more was armed in vain, and
-- what the bus refused for good of it counts as failed.
UPDATE replays
SET armed = greatest(replays.armed - sqlc.arg(unsent)::bigint - sqlc.arg(dead)::bigint, 0),
    failed = replays.failed + sqlc.arg(dead)::bigint,
    status = @status, status_note = @status_note, version = replays.version + 1,
    failures_accepted = @failures_accepted, armed_at = @now::timestamptz,
    finished_at = CASE WHEN @status::text = 'canceled' THEN @now::timestamptz END
WHERE tenant_id = @tenant_id AND id = @id AND status = ANY (@from_statuses::text[])
RETURNING *;

-- name: HoldQueued :execrows
-- What a paused replay has queued is looked at no more; the dispatcher skips what was tried and is not due again.
UPDATE outbox SET attempts = outbox.attempts + 1, next_attempt_at = 'infinity'
WHERE outbox.replay_id = @replay_id::uuid AND outbox.next_attempt_at IS DISTINCT FROM 'infinity';

-- name: ReleaseQueued :execrows
UPDATE outbox SET attempts = outbox.attempts - 1, next_attempt_at = NULL
WHERE outbox.replay_id = @replay_id::uuid AND outbox.next_attempt_at = 'infinity';

-- name: DropQueued :execrows
DELETE FROM outbox WHERE outbox.replay_id = @replay_id::uuid;

-- name: GetReplay :one
-- Of one tenant, or of any when none is given.
SELECT * FROM replays
WHERE id = @id AND (sqlc.narg(tenant_id)::uuid IS NULL OR tenant_id = sqlc.narg(tenant_id)::uuid);

-- name: CountQueued :one
-- What a replay still has in the queue, and what the bus refused for good.
SELECT (SELECT count(*) FROM outbox o WHERE o.replay_id = @id)::bigint AS queued,
       (SELECT count(*) FROM outbox_dead_letters d WHERE d.replay_id = @id)::bigint AS dead;

-- name: ListRunning :many
-- The running replays after one of them, of all tenants. Those of a tenant, or for a consumer, that is paused wait.
SELECT r.tenant_id, r.id FROM replays r
WHERE r.status = 'running' AND r.id > @after
  AND NOT EXISTS (
      SELECT 1 FROM pauses p
      WHERE p.resumed_at IS NULL AND (p.tenant_id = r.tenant_id OR 'consumer:' || p.consumer = r.target))
ORDER BY r.id LIMIT @most::integer;

-- name: LockRunning :one
-- No row when it is finished, when another worker is at it, or when its tenant or consumer has been paused meanwhile.
SELECT * FROM replays
WHERE replays.tenant_id = @tenant_id AND replays.id = @id AND replays.status = 'running'
  AND NOT EXISTS (
      SELECT 1 FROM pauses p
      WHERE p.resumed_at IS NULL
        AND (p.tenant_id = replays.tenant_id OR 'consumer:' || p.consumer = replays.target))
FOR NO KEY UPDATE SKIP LOCKED;

-- name: ArmReplay :execrows
-- Publications in the order given, behind all live ones. What is queued for this replay already stays as it is.
INSERT INTO outbox (event_id, purpose, tenant_id, shard, priority, position, subject, resource, target, replay_id)
SELECT g.event_id, @purpose, @tenant_id, g.hash % (SELECT shards FROM topology), 1, nextval('outbox_position'),
       g.subject, g.resource, @target, @replay_id::uuid
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

-- name: MoveSettled :one
UPDATE replays SET settled_until = @settled_until, armed_at = @armed_at, rounds = @rounds
WHERE tenant_id = @tenant_id AND id = @id AND status = 'running'
RETURNING *;

-- name: FinishReplay :one
-- Once. What the bus refused for good was armed in vain: it counts as failed.
UPDATE replays
SET status = 'finished', finished_at = @now::timestamptz, version = version + 1, status_note = '',
    armed = replays.armed - sqlc.arg(dead)::bigint, failed = replays.failed + sqlc.arg(dead)::bigint
WHERE tenant_id = @tenant_id AND id = @id AND status = 'running'
RETURNING *;

-- name: FindStartedEvent :one
-- The event that told of the start: the cause of the one that tells of the end.
SELECT id, correlation_id FROM billing_events
WHERE tenant_id = @tenant_id AND resource = @resource AND id >= @first::uuid
ORDER BY id LIMIT 1;

-- name: ListSamples :many
-- The first few of what a filter matches, to look at.
SELECT e.id, e.subject, e.resource, e.occurred_at FROM billing_events e WHERE e.id = ANY (@ids::uuid[]) ORDER BY e.id;

-- name: ListUsageResources :many
-- The batches of usage that a replay would fold again; their periods are asked for next.
SELECT DISTINCT e.resource FROM billing_events e
WHERE e.tenant_id = @tenant_id AND e.id BETWEEN @first::uuid AND @last::uuid AND e.subject = 'usage.reported'
  AND starts_with(e.resource, 'bat_')
LIMIT @most::integer;

-- name: CountClosedPeriods :one
-- How many billed usage periods the records of these batches belong to.
SELECT count(*)::bigint AS periods FROM (
    SELECT DISTINCT p.item_id, p.period_start
    FROM usage_records r
    JOIN usage_periods p ON p.tenant_id = r.tenant_id AND p.item_id = r.item_id AND p.period_start = r.period_start
    WHERE r.tenant_id = @tenant_id AND r.batch_id = ANY (@batch_ids::uuid[]) AND p.status = 'billed'
) AS closed;

-- name: GetOldestInbox :one
-- The first id that the inbox can know.
SELECT oldest_inbox_id() AS "oldest?";

-- name: MakePartitions :one
-- Again for a stretch whose inbox was dropped, so that it can take the marks of what is handled now.
SELECT make_event_partitions(@first::timestamptz, @weeks::integer)::integer AS made;

-- name: InsertInboxReplays :many
-- The events that this forced replay has not run yet for the consumer.
INSERT INTO inbox_replays (tenant_id, consumer, event_id, replay_id)
SELECT @tenant_id, @consumer, g.event_id, @replay_id FROM unnest(@event_ids::uuid[]) AS g (event_id)
ORDER BY g.event_id
ON CONFLICT DO NOTHING
RETURNING event_id;

-- name: LockReplayEndpoint :one
SELECT id, status, shard, subjects FROM webhooks
WHERE tenant_id = @tenant_id AND id = @id AND status <> 'deleted' FOR NO KEY UPDATE;

-- name: RedriveDeliveries :many
-- What the endpoint never got of these events is due again under its own id: dead letters, and deliveries that were
-- never made of what it wants. Those delivered, on their way or parked stay as they are. The attempts go on from their
-- number, which is their key, and the schedule begins anew: those so far are forgiven.
WITH given AS (
    SELECT g.event_id, g.subject, g.wanted
    FROM unnest(@event_ids::uuid[], @subjects::text[], @wanted::boolean[]) AS g (event_id, subject, wanted)
), back AS (
    UPDATE webhook_deliveries
    SET status = @status::text, forgiven = webhook_deliveries.attempts, due_at = @now::timestamptz, finished_at = NULL
    FROM given g
    WHERE webhook_deliveries.tenant_id = @tenant_id AND webhook_deliveries.webhook_id = @webhook_id
      AND webhook_deliveries.event_id = g.event_id AND webhook_deliveries.nonce = 0
      AND webhook_deliveries.status = 'dead'
    RETURNING webhook_deliveries.event_id
), gone AS (
    DELETE FROM webhook_dlq USING back
    WHERE webhook_dlq.tenant_id = @tenant_id AND webhook_dlq.webhook_id = @webhook_id
      AND webhook_dlq.event_id = back.event_id AND webhook_dlq.nonce = 0
), made AS (
    INSERT INTO webhook_deliveries (
        tenant_id, webhook_id, event_id, shard, subject, status, due_at, created_at)
    SELECT @tenant_id, @webhook_id, g.event_id, @shard::smallint, g.subject, @status::text, @now::timestamptz,
           @now::timestamptz
    FROM given g
    WHERE g.wanted
    ORDER BY g.event_id
    ON CONFLICT DO NOTHING
    RETURNING event_id
), counted AS (
    INSERT INTO webhook_matched (tenant_id, webhook_id, partition, count)
    SELECT @tenant_id, @webhook_id, @partition::smallint, (SELECT count(*) FROM made)
    WHERE EXISTS (SELECT 1 FROM made)
    ON CONFLICT (tenant_id, webhook_id, partition) DO UPDATE SET count = webhook_matched.count + excluded.count
)
SELECT back.event_id FROM back UNION ALL SELECT made.event_id FROM made;

-- name: ListDeadOf :many
-- The dead letters of these events, of the dispatcher and of the consumers, but not of those left out.
SELECT d.id, ''::text AS consumer, d.event_id, d.shard AS partition FROM outbox_dead_letters d WHERE d.event_id = ANY (@event_ids::uuid[])
UNION ALL
SELECT d.id, d.consumer, d.event_id, d.partition FROM router_dead_letters d
WHERE d.resource = ANY (@resources::text[]) AND d.event_id = ANY (@event_ids::uuid[])
  AND d.consumer <> ALL (@left_out::text[])
ORDER BY id;
