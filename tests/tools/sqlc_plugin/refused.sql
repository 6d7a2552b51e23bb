-- Statements that the plugin refuses; what it says stands in test_sqlc_plugin.py.

-- name: UnknownType :many
SELECT seen_at FROM odd_ones;

-- name: UnknownDomain :many
SELECT age FROM odd_ones;

-- name: UnknownParameterType :many
SELECT id FROM odd_ones WHERE @when_::timestamp IS NULL;

-- name: NoCast :many
SELECT document -> 'a' AS a FROM odd_ones;

-- name: UnsureFunction :many
SELECT id, lower(span) AS starts FROM odd_ones;

-- name: Aggregate :one
SELECT count(*) AS n, max(large)::bigint AS top FROM odd_ones;

-- name: FilteredAggregate :many
SELECT note, sum(large) FILTER (WHERE large > 0)::bigint AS top FROM odd_ones GROUP BY note;

-- name: Subselect :many
SELECT id, (SELECT id FROM others LIMIT 1) AS other FROM odd_ones;

-- name: CaseWithoutElse :many
SELECT id, (CASE WHEN large > 0 THEN 'more' END)::text AS word FROM odd_ones;

-- name: JsonMember :many
SELECT id, (document ->> 'a')::text AS member FROM odd_ones;

-- name: LeftJoinedSubselect :many
SELECT o.id, x.label FROM odd_ones o
LEFT JOIN LATERAL (SELECT label FROM others WHERE others.id = o.id LIMIT 1) x ON true;

-- name: LeftJoinedCast :many
SELECT o.id, x.label::text AS label FROM odd_ones o LEFT JOIN others AS x ON x.id = o.id;

-- name: LeftJoinedEmbed :many
SELECT o.large, sqlc.embed(others) FROM odd_ones o LEFT JOIN others ON others.id = o.id;

-- name: Positional :many
SELECT id FROM odd_ones WHERE large = $1;

-- name: OperatorAfterName :many
SELECT id FROM odd_ones WHERE large > @large + 1;

-- name: AnyOfScalar :many
SELECT large FROM odd_ones WHERE id = ANY(@ids);

-- name: BareUnnest :many
SELECT * FROM unnest(@ids::uuid[], @notes::text[]);

-- name: Merged :exec
MERGE INTO others USING odd_ones ON others.id = odd_ones.id
WHEN MATCHED THEN UPDATE SET label = @label::text;

-- name: TwoOfAName :many
SELECT o.id, x.id FROM odd_ones o JOIN others x ON x.id = o.id;

-- name: Nameless :many
SELECT id, large > 0 FROM odd_ones;

-- name: SaysNothing :one
SELECT pg_advisory_xact_lock(@key::bigint);

-- name: TwoDimensions :many
SELECT grid FROM odd_ones;

-- name: BatchCommand :batchexec
UPDATE odd_ones SET note = @note WHERE id = @id;
