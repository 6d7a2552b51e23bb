-- The log as it is browsed: newest first, a bounded number of events looked at for one page.

-- name: ListLoggedEvents :many
-- One row per event that matches, newest first. Each row, and a single row without an event when none matches, tells how
-- many were looked at and which was the last of them. Exactly one of the four ways to look runs, each by an index:
-- what is not on the bus, a resource, a correlation, or all.
WITH looked AS (
    (SELECT d.event_id AS id FROM event_dispatch_status d
     WHERE @undispatched::boolean AND d.tenant_id = @tenant_id AND d.dispatch_status = @dispatch_status::text
       AND d.event_id BETWEEN @first::uuid AND @last::uuid
     ORDER BY d.event_id DESC LIMIT @look_max::integer)
    UNION ALL
    (SELECT e.id FROM billing_events e
     WHERE NOT @undispatched::boolean AND @resource::text <> '' AND e.tenant_id = @tenant_id AND e.resource = @resource::text
       AND e.id BETWEEN @first::uuid AND @last::uuid
     ORDER BY e.id DESC LIMIT @look_max::integer)
    UNION ALL
    (SELECT e.id FROM billing_events e
     WHERE NOT @undispatched::boolean AND @resource::text = '' AND e.tenant_id = @tenant_id
       AND e.correlation_id = sqlc.narg(correlation_id)::uuid
       AND e.id BETWEEN @first::uuid AND @last::uuid
     ORDER BY e.id DESC LIMIT @look_max::integer)
    UNION ALL
    (SELECT e.id FROM billing_events e
     WHERE NOT @undispatched::boolean AND @resource::text = '' AND sqlc.narg(correlation_id)::uuid IS NULL
       AND e.tenant_id = @tenant_id AND e.id BETWEEN @first::uuid AND @last::uuid
     ORDER BY e.id DESC LIMIT @look_max::integer)
), matching AS (
    SELECT e.id, e.envelope, coalesce(d.dispatch_status, 'dispatched') AS dispatch_status
    FROM looked l
    JOIN billing_events e ON e.id = l.id AND e.tenant_id = @tenant_id
    LEFT JOIN event_dispatch_status d ON d.event_id = e.id
    WHERE (@any_subject::boolean OR e.subject = ANY (@subjects::text[])
           OR EXISTS (SELECT FROM unnest(@beginnings::text[]) AS b (beginning) WHERE starts_with(e.subject, b.beginning)))
      AND (@resource::text = '' OR e.resource = @resource::text)
      AND (sqlc.narg(correlation_id)::uuid IS NULL OR e.correlation_id = sqlc.narg(correlation_id)::uuid)
      AND (@dispatch_status::text = '' OR coalesce(d.dispatch_status, 'dispatched') = @dispatch_status::text)
    ORDER BY e.id DESC
    LIMIT @most::integer
)
SELECT (SELECT count(*) FROM looked)::bigint AS looked,
       (SELECT l.id FROM looked l ORDER BY l.id LIMIT 1)::uuid AS "reached?",
       m.id AS "id?", m.envelope AS "envelope?", m.dispatch_status::text AS "dispatch_status?"
FROM (VALUES (true)) AS always (one)
LEFT JOIN matching m ON always.one
ORDER BY m.id DESC;
