-- name: InsertSpecimen :one
INSERT INTO specimens (
    id, flag, small, medium, large, ratio, amount, note, code, currency, body, day, at, span,
    document, raw, address, network, mood
) VALUES (
    @id, @flag, @small, @medium, @large, @ratio, @amount, @note, @code, @currency, @body, @day,
    @at, @span, @document, @raw, @address, @network, @mood
)
RETURNING *;

-- name: InsertSpecimens :execrows
-- Nineteen arrays, one statement, one plan.
INSERT INTO specimens (
    id, flag, small, medium, large, ratio, amount, note, code, currency, body, day, at, span,
    document, raw, address, network, mood
)
SELECT
    t.id, t.flag, t.small, t.medium, t.large, t.ratio, t.amount, t.note, t.code, t.currency,
    t.body, t.day, t.at, t.span, t.document, t.raw, t.address, t.network, t.mood
FROM unnest(
    @ids::uuid[], @flags::boolean[], @smalls::smallint[], @mediums::integer[], @larges::bigint[],
    @ratios::double precision[], @amounts::numeric[], @notes::text[], @codes::varchar[],
    @currencies::text[], @bodies::bytea[], @days::date[], @times::timestamptz[],
    @spans::interval[], @documents::jsonb[], @raws::json[], @addresses::inet[], @networks::cidr[],
    @moods::mood[]
) AS t (
    id, flag, small, medium, large, ratio, amount, note, code, currency, body, day, at, span,
    document, raw, address, network, mood
);

-- name: ListSpecimens :many
SELECT * FROM specimens ORDER BY id LIMIT @batch_max;

-- name: InsertMaybe :one
INSERT INTO maybes (
    id, flag, large, ratio, amount, "class", uuid, body, datetime, span, document, address, mood,
    words, moods
) VALUES (
    @id, @flag, @large, @ratio, @amount, @class, @uuid, @body, @datetime, @span, @document,
    @address, @mood, @words, @moods
)
RETURNING *;

-- name: InsertBatch :one
INSERT INTO batches (
    id, flags, smalls, numbers, larges, amounts, words, bodies, ids, times, addresses, moods
) VALUES (
    @id, @flags, @smalls, @numbers, @larges, @amounts, @words, @bodies, @ids, @times, @addresses,
    @moods
)
RETURNING *;

-- name: MoodOf :one
SELECT mood FROM maybes WHERE id = @id;

-- name: MoodsOf :many
SELECT mood FROM specimens WHERE mood = ANY(@moods::mood[]) ORDER BY mood;
