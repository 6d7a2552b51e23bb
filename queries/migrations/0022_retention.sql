-- Sweeper: the log, its links, the inbox and the feed are dropped by the week.

-- The feed is split by the week in which its rows were routed, which is turned under the lock of the position rows: so in
-- each partition the positions of a week all come before those of the next, and a reader looks only at weeks from its own.
ALTER TABLE event_feed RENAME TO event_feed_before;
ALTER INDEX event_feed_pkey RENAME TO event_feed_before_pkey;
CREATE TABLE event_feed (
    tenant_id uuid NOT NULL,
    partition smallint NOT NULL,
    position  bigint NOT NULL,
    event_id  uuid NOT NULL,
    -- The Monday of the week.
    week      date NOT NULL,
    -- The position alone is unique: one counter draws it, under its row's lock.
    PRIMARY KEY (tenant_id, partition, position, week)
) PARTITION BY RANGE (week);
GRANT SELECT ON event_feed TO tollway_api;
GRANT SELECT, INSERT ON event_feed TO tollway_worker;
ALTER TABLE router_positions ADD COLUMN feed_week date NOT NULL
    DEFAULT date_trunc('week', now() AT TIME ZONE 'UTC')::date;
-- Behind which position each week of a partition begins.
CREATE TABLE event_feed_weeks (
    partition      smallint NOT NULL,
    week           date NOT NULL,
    after_position bigint NOT NULL,
    PRIMARY KEY (partition, week)
);
GRANT SELECT ON event_feed_weeks TO tollway_api;
GRANT SELECT, INSERT, DELETE ON event_feed_weeks TO tollway_worker;
INSERT INTO event_feed_weeks (partition, week, after_position)
SELECT partition, feed_week, 0 FROM router_positions;

-- The links go with their events.
ALTER TABLE event_links RENAME TO event_links_before;
ALTER INDEX event_links_pkey RENAME TO event_links_before_pkey;
ALTER INDEX event_links_by_cause RENAME TO event_links_before_by_cause;
ALTER INDEX event_links_by_effect RENAME TO event_links_before_by_effect;
CREATE TABLE event_links (LIKE event_links_before, PRIMARY KEY (tenant_id, event_id, linked_event_id))
    PARTITION BY RANGE (event_id);
CREATE INDEX event_links_by_cause ON event_links (tenant_id, linked_correlation_id);
CREATE INDEX event_links_by_effect ON event_links (tenant_id, correlation_id);
GRANT SELECT, INSERT ON event_links TO tollway_api, tollway_worker;

-- Weekly partitions, from the week of `first` on; run at start and by the sweeper, ahead of time. UUIDv7 begins with the
-- milliseconds since 1970 in 48 bits.
CREATE FUNCTION least_event_id(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT rpad(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0'), 32, '0')::uuid
$$;
CREATE OR REPLACE FUNCTION make_event_partitions(first timestamptz, weeks integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    monday date;
    parent text;
    child text;
    bounds text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7236002);
    FOR i IN 0 .. weeks - 1 LOOP
        monday := date_trunc('week', first AT TIME ZONE 'UTC')::date + 7 * i;
        FOREACH parent IN ARRAY ARRAY['billing_events', 'event_links', 'inbox', 'event_feed'] LOOP
            child := parent || '_' || to_char(monday, 'IYYY"w"IW');
            bounds := CASE parent
                WHEN 'event_feed' THEN format('FROM (%L) TO (%L)', monday, monday + 7)
                ELSE format('FROM (%L) TO (%L)', least_event_id(monday::timestamp AT TIME ZONE 'UTC'),
                            least_event_id((monday + 7)::timestamp AT TIME ZONE 'UTC'))
            END;
            IF to_regclass('public.' || child) IS NULL THEN
                -- CREATE and ATTACH apart: the parent is locked for the attachment only.
                EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', child, parent);
                EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES %s', parent, child, bounds);
                made := made + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;
-- What is there moves over, before row-level security is on: it would hide all of it from the owner.
ALTER TABLE event_feed_before NO FORCE ROW LEVEL SECURITY;
ALTER TABLE event_links_before NO FORCE ROW LEVEL SECURITY;
SELECT make_event_partitions(date_trunc('week', min(at)), 4 + ceil(extract(epoch FROM now() - min(at)) / 604800)::integer)
FROM (
    SELECT now() - interval '7 days' AS at
    UNION ALL SELECT uuid_extract_timestamp(event_id) FROM event_links_before
) AS oldest;
INSERT INTO event_feed (tenant_id, partition, position, event_id, week)
SELECT f.tenant_id, f.partition, f.position, f.event_id, p.feed_week
FROM event_feed_before f JOIN router_positions p ON p.partition = f.partition;
INSERT INTO event_links SELECT * FROM event_links_before;
DROP TABLE event_feed_before, event_links_before;
ALTER TABLE event_feed ENABLE ROW LEVEL SECURITY;
ALTER TABLE event_feed FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON event_feed TO tollway_api
    USING (tenant_id = nullif(current_setting('tollway.tenant', true), '')::uuid);
ALTER TABLE event_links ENABLE ROW LEVEL SECURITY;
ALTER TABLE event_links FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON event_links TO tollway_api
    USING (tenant_id = nullif(current_setting('tollway.tenant', true), '')::uuid);

-- What the sweeper asks before it drops a week of the log: is an event of it waiting or dead somewhere?
CREATE INDEX router_dead_letters_by_event ON router_dead_letters (event_id);
CREATE INDEX webhook_dlq_by_event ON webhook_dlq (event_id);
CREATE INDEX webhook_deliveries_kept_back ON webhook_deliveries (event_id) WHERE status IN ('parked', 'dead');

-- The weeks that end before the given times, attached or left over from a sweep that died, with the statements that
-- detach and drop them: DDL takes no parameters. The bounds of the feed's weeks are null.
CREATE FUNCTION old_partitions(log_before timestamptz, inbox_before timestamptz, feed_before date)
RETURNS TABLE (
    parent text, child text, week date, lower_id uuid, upper_id uuid, state text,
    detach_statement text, finalize_statement text, attach_statement text, drop_statement text)
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    SELECT n.parent, n.child, n.week, n.lower_id, n.upper_id,
           CASE WHEN i.inhrelid IS NULL THEN 'detached' WHEN i.inhdetachpending THEN 'detaching' ELSE 'attached' END,
           format('ALTER TABLE %I DETACH PARTITION %I CONCURRENTLY', n.parent, n.child),
           format('ALTER TABLE %I DETACH PARTITION %I FINALIZE', n.parent, n.child),
           format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', n.parent, n.child,
                  n.lower_id, n.upper_id),
           format('DROP TABLE %I', n.child)
    FROM (
        SELECT c.oid, c.relname::text AS child, left(c.relname, -8) AS parent,
               to_date(right(c.relname, 7), 'IYYY"w"IW') AS week,
               least_event_id(to_date(right(c.relname, 7), 'IYYY"w"IW')::timestamp AT TIME ZONE 'UTC') AS lower_id,
               least_event_id((to_date(right(c.relname, 7), 'IYYY"w"IW') + 7)::timestamp AT TIME ZONE 'UTC') AS upper_id
        FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
          AND c.relname ~ '^(billing_events|event_links|inbox|event_feed)_[0-9]{4}w[0-9]{2}$'
    ) AS n
    LEFT JOIN pg_inherits i ON i.inhrelid = n.oid
    WHERE (n.week + 7)::timestamp AT TIME ZONE 'UTC' <= CASE n.parent
        WHEN 'inbox' THEN inbox_before
        WHEN 'event_feed' THEN feed_before::timestamp AT TIME ZONE 'UTC'
        ELSE log_before
    END
    ORDER BY n.week, n.parent
$$;
