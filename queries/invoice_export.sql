-- Invoice path, for looking: final invoices and their lines, for spreadsheets.

-- name: ListInvoicesToExport :many
-- Final invoices, oldest first, those made after @after.
SELECT i.*, coalesce(c.external_id, '') AS customer_external_id, c.display_name AS customer_name
FROM invoices i
JOIN customers c ON c.tenant_id = i.tenant_id AND c.id = i.customer_id
WHERE i.tenant_id = @tenant_id AND i.status <> 'draft'
  AND (sqlc.narg(after)::uuid IS NULL OR i.id > sqlc.narg(after)::uuid)
  AND (sqlc.narg(customer_id)::uuid IS NULL OR i.customer_id = sqlc.narg(customer_id)::uuid)
  AND (sqlc.narg(finalized_from)::timestamptz IS NULL OR i.finalized_at >= sqlc.narg(finalized_from)::timestamptz)
  AND (sqlc.narg(finalized_until)::timestamptz IS NULL OR i.finalized_at < sqlc.narg(finalized_until)::timestamptz)
ORDER BY i.id
LIMIT @page_max;

-- name: ListLinesToExport :many
-- The lines of these invoices, in order.
SELECT l.* FROM invoice_lines l
WHERE l.tenant_id = @tenant_id AND l.invoice_id = ANY (@invoice_ids::uuid[])
ORDER BY l.invoice_id, l.line_number;
