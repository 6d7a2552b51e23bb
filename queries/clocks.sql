-- Business time: the test clocks of test-mode tenants.

-- name: ListBusinessTimes :many
SELECT tenant_id, business_time FROM test_clocks WHERE tenant_id = ANY (@tenant_ids::uuid[]);
