-- Invoice path, step 6: credit notes. Lock order: invoice, credit balance, sequence.

-- name: ListCreditedLines :many
-- What earlier notes took from each line of an invoice.
SELECT l.line_number, sum(l.net)::bigint AS net, sum(l.tax)::bigint AS tax
FROM credit_note_lines l
WHERE l.tenant_id = @tenant_id AND l.invoice_id = @invoice_id
GROUP BY l.line_number;

-- name: InsertCreditNote :one
-- Draws the number and writes the note, with seller and buyer as the invoice has them. A rollback takes both back.
WITH drawn AS (
    UPDATE invoice_sequences
    SET last = invoice_sequences.last + 1, last_at = greatest(@at::timestamptz, invoice_sequences.last_at)
    WHERE invoice_sequences.tenant_id = @tenant_id AND invoice_sequences.kind = 'credit_note'
    RETURNING invoice_sequences.tenant_id, invoice_sequences.last, invoice_sequences.last_at
)
INSERT INTO credit_notes (
    tenant_id, id, invoice_id, customer_id, number, reason, currency, net, tax, total, lowers_due, to_credit_balance,
    parties, issued_at)
SELECT i.tenant_id, @id, i.id, i.customer_id,
       'CN-' || lpad(drawn.last::text, greatest(6, length(drawn.last::text)), '0'), @reason, i.currency, @net,
       @tax, @total, @lowers_due, @to_credit_balance, i.parties, drawn.last_at
FROM drawn JOIN invoices i ON i.tenant_id = drawn.tenant_id AND i.id = @invoice_id
RETURNING *;

-- name: InsertCreditNoteLines :exec
INSERT INTO credit_note_lines (tenant_id, credit_note_id, invoice_id, line_number, net, tax)
SELECT @tenant_id, @credit_note_id, @invoice_id, g.line_number, g.net, g.tax
FROM unnest(@line_numbers::integer[], @nets::bigint[], @taxes::bigint[]) AS g (line_number, net, tax)
ORDER BY g.line_number;

-- name: GetCreditNote :one
SELECT sqlc.embed(n), i.number AS "invoice_number?" FROM credit_notes n
JOIN invoices i ON i.tenant_id = n.tenant_id AND i.id = n.invoice_id
WHERE n.tenant_id = @tenant_id AND n.id = @id;

-- name: ListCreditNoteLines :many
SELECT c.line_number, l.description, c.net, c.tax, l.tax_percent
FROM credit_note_lines c
JOIN invoice_lines l ON l.tenant_id = c.tenant_id AND l.invoice_id = c.invoice_id AND l.line_number = c.line_number
WHERE c.tenant_id = @tenant_id AND c.credit_note_id = @credit_note_id
ORDER BY c.line_number;

-- name: ListCreditNotes :many
-- Newest first, those issued before @before.
SELECT sqlc.embed(n), i.number AS "invoice_number?" FROM credit_notes n
JOIN invoices i ON i.tenant_id = n.tenant_id AND i.id = n.invoice_id
WHERE n.tenant_id = @tenant_id
  AND (sqlc.narg(before)::uuid IS NULL OR n.id < sqlc.narg(before)::uuid)
  AND (sqlc.narg(invoice_id)::uuid IS NULL OR n.invoice_id = sqlc.narg(invoice_id)::uuid)
  AND (sqlc.narg(customer_id)::uuid IS NULL OR n.customer_id = sqlc.narg(customer_id)::uuid)
ORDER BY n.id DESC
LIMIT @page_max;
