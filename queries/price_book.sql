-- Usage and invoice paths: prices as rating needs them.

-- name: ListBookedPrices :many
SELECT r.*
FROM unnest(@tenant_ids::uuid[], @price_ids::uuid[]) AS k (tenant_id, price_id)
JOIN prices r ON r.tenant_id = k.tenant_id AND r.id = k.price_id;
