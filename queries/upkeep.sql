-- Sweeper: partitions made ahead, old answers deleted.

-- name: MakeEventPartitions :one
-- Weekly partitions of the log, its links, the inbox and the feed, from the week of `first` on; how many were missing.
SELECT make_event_partitions(@first::timestamptz, @weeks::integer)::integer AS made;

-- name: DeleteOldAnswers :execrows
-- Answers kept for retries, a small step at a time, oldest first.
DELETE FROM idempotent_requests USING (
    SELECT r.tenant_id, r.principal, r.method, r.request_id FROM idempotent_requests r
    WHERE r.created_at < @before::timestamptz
    ORDER BY r.created_at
    LIMIT @most::integer
    FOR NO KEY UPDATE SKIP LOCKED
) AS old
WHERE idempotent_requests.tenant_id = old.tenant_id AND idempotent_requests.principal = old.principal
  AND idempotent_requests.method = old.method AND idempotent_requests.request_id = old.request_id;
