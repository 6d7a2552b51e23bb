-- name: SetTenant :exec
SELECT set_config('app.tenant', @tenant_id::text, true);

-- name: InsertInvoice :one
INSERT INTO invoices (tenant_id, id, total) VALUES (@tenant_id, @id, @total)
RETURNING *;

-- name: FinalizeInvoice :one
-- Draft to "final", once. No row means that somebody else was first.
--
-- A quote """ and a backslash \n cannot break out.
UPDATE invoices
SET status = 'final', finalized_at = @now
WHERE id = @invoice_id AND status = 'draft'
RETURNING id, total, finalized_at;

-- name: ClaimDrafts :many
-- The claim of the house: due rows, a lease, the rows back.
WITH due AS (
    SELECT tenant_id, id FROM invoices
    WHERE invoices.status = 'draft' AND invoices.total >= @total_min
    ORDER BY position
    LIMIT @batch_max
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE invoices
SET finalized_at = @lease_end
FROM due
WHERE invoices.tenant_id = due.tenant_id AND invoices.id = due.id
RETURNING invoices.*;

-- name: SearchInvoices :many
SELECT id, status FROM invoices
WHERE (sqlc.narg(status)::text IS NULL OR status = sqlc.narg(status))
  AND total >= @total_min AND total <= 100 + @total_min
  AND (position, id) > (@after_position, @after_id::uuid)
ORDER BY position, id
LIMIT @page_max;

-- name: LinesWithInvoice :many
SELECT sqlc.embed(invoices), l.number, l.label, sqlc.embed(l)
FROM invoice_lines l
JOIN invoices ON invoices.tenant_id = l.tenant_id AND invoices.id = l.invoice_id
ORDER BY l.number;

-- name: InvoicesWithMaybeLines :many
SELECT i.id, l.amount, l.label
FROM invoices i
LEFT JOIN invoice_lines l ON l.tenant_id = i.tenant_id AND l.invoice_id = i.id;

-- name: Totals :one
SELECT
    count(*) AS invoices,
    coalesce(sum(total), 0)::bigint AS total,
    max(finalized_at)::timestamptz AS "newest?",
    (SELECT label FROM invoice_lines LIMIT 1) AS "some_label?",
    EXISTS (SELECT 1 FROM invoice_lines) AS "has_lines",
    bool_and(total >= 0)::boolean AS "positive!",
    E'a\\b "quoted"' AS odd
FROM invoices;

-- name: InsertLines :many
-- New lines come back, repeated ones do not; in the order given.
WITH given AS (
    SELECT t.number, t.label, t.amount, t.place
    FROM unnest(@numbers::integer[], sqlc.narg(labels)::text[], @amounts::bigint[])
        WITH ORDINALITY AS t (number, label, amount, place)
),
added AS (
    INSERT INTO invoice_lines (tenant_id, invoice_id, number, label, amount)
    SELECT @tenant_id, @invoice_id, given.number, given.label, given.amount FROM given
    ON CONFLICT DO NOTHING
    RETURNING number
)
SELECT added.number FROM added JOIN given ON given.number = added.number ORDER BY given.place;

-- name: DeleteLines :execrows
DELETE FROM invoice_lines WHERE invoice_id = @invoice_id;

-- name: CopyLines :copyfrom
INSERT INTO invoice_lines (tenant_id, invoice_id, number, label, amount)
VALUES (@tenant_id, @invoice_id, @line_number, @label, @amount);

-- name: NextPosition :one
SELECT nextval('positions');
