-- Publish path and router: who owns a shard or a partition, by the database's time.

-- name: EnsureLeases :exec
-- One row per shard of the kind, held by nobody.
INSERT INTO leases (kind, shard)
SELECT @kind::text, g.shard FROM unnest(@shards::integer[]) AS g (shard)
ORDER BY g.shard
ON CONFLICT DO NOTHING;

-- name: GetTopology :one
SELECT shards FROM topology;

-- name: KeepMember :exec
-- This process lives and wants its share.
INSERT INTO lease_members (kind, holder, expires_at)
VALUES (@kind, @holder, clock_timestamp() + make_interval(secs => @lease_s::double precision))
ON CONFLICT (kind, holder) DO UPDATE SET expires_at = excluded.expires_at;

-- name: CountMembers :one
SELECT count(*) AS members FROM lease_members WHERE kind = @kind AND expires_at > clock_timestamp();

-- name: RenewLeases :many
-- What the holder had and nobody has taken since; a lease that ran out untaken goes on under its term.
WITH own AS (
    SELECT l.shard FROM leases l
    WHERE l.kind = @kind::text AND l.holder = @holder::uuid
    ORDER BY l.shard
    FOR NO KEY UPDATE
)
UPDATE leases SET expires_at = clock_timestamp() + make_interval(secs => @lease_s::double precision)
FROM own
WHERE leases.kind = @kind::text AND leases.shard = own.shard AND leases.holder = @holder::uuid
RETURNING leases.shard, leases.term;

-- name: TakeLeases :many
-- Free ones, at most so many, each under a new term. Takers never wait for each other.
WITH free AS (
    SELECT l.shard FROM leases l
    WHERE l.kind = @kind::text AND (l.holder IS NULL OR l.expires_at < clock_timestamp())
    ORDER BY l.shard
    LIMIT @most::integer
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE leases SET holder = @holder::uuid, term = leases.term + 1,
                  expires_at = clock_timestamp() + make_interval(secs => @lease_s::double precision)
FROM free
WHERE leases.kind = @kind::text AND leases.shard = free.shard
RETURNING leases.shard, leases.term;

-- name: EnsurePositions :exec
-- One row per partition; its feed begins in this week.
WITH made AS (
    INSERT INTO router_positions (partition)
    SELECT g.partition FROM unnest(@partitions::smallint[]) AS g (partition)
    ORDER BY g.partition
    ON CONFLICT DO NOTHING
    RETURNING partition, feed_week
)
INSERT INTO event_feed_weeks (partition, week, after_position)
SELECT m.partition, m.feed_week, 0 FROM made m ORDER BY m.partition
ON CONFLICT DO NOTHING;

-- name: TakePartitions :many
-- Free leases of the router whose position row nobody holds now. The term goes into the position in the same
-- statement, so that from here on a commit of an earlier owner changes nothing.
WITH free AS (
    SELECT l.shard FROM leases l
    JOIN router_positions p ON p.partition = l.shard
    WHERE l.kind = @kind::text AND (l.holder IS NULL OR l.expires_at < clock_timestamp())
    ORDER BY l.shard
    LIMIT @most::integer
    FOR NO KEY UPDATE OF l, p SKIP LOCKED
), taken AS (
    UPDATE leases SET holder = @holder::uuid, term = leases.term + 1,
                      expires_at = clock_timestamp() + make_interval(secs => @lease_s::double precision)
    FROM free
    WHERE leases.kind = @kind::text AND leases.shard = free.shard
    RETURNING leases.shard, leases.term
)
UPDATE router_positions SET term = taken.term
FROM taken
WHERE router_positions.partition = taken.shard
RETURNING taken.shard, taken.term;

-- name: ReleaseLeases :execrows
-- Given up at once, for somebody else to take. Only under the terms that are given up.
UPDATE leases SET holder = NULL, expires_at = '-infinity'
WHERE kind = @kind AND holder = @holder::uuid AND shard = ANY (@shards::integer[]);

-- name: DeleteMembers :exec
-- The one that leaves, and those that died long ago.
DELETE FROM lease_members WHERE kind = @kind AND (holder = @holder OR expires_at < clock_timestamp() - interval '1 hour');

-- name: ForgetHolders :exec
-- Every lease is free at once, and its term goes on: for whoever knows that all earlier holders are gone.
WITH held AS (
    SELECT l.kind, l.shard FROM leases l WHERE l.holder IS NOT NULL ORDER BY l.kind, l.shard FOR NO KEY UPDATE
), gone AS (
    DELETE FROM lease_members WHERE holder IS NOT NULL
)
UPDATE leases SET holder = NULL, expires_at = '-infinity'
FROM held
WHERE leases.kind = held.kind AND leases.shard = held.shard;
