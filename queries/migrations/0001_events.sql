-- Publish path: the log of events, the outbox, the router's positions and the inbox; and what every process shares.

-- Roles. Processes sign in as the database's owner and take a role for the session; row-level security then binds the
-- API. Roles belong to the whole server, so several databases may share them.
DO $$
BEGIN
    PERFORM pg_advisory_xact_lock(7236001);
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'tollway_api') THEN
        CREATE ROLE tollway_api NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'tollway_worker') THEN
        CREATE ROLE tollway_worker NOLOGIN BYPASSRLS;
    END IF;
END $$;

-- How many shards the outbox has, which is how many partitions the bus has. One row.
CREATE TABLE topology (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    shards    integer NOT NULL CHECK (shards BETWEEN 1 AND 256)
);
INSERT INTO topology (shards) VALUES (16);

-- Who owns a shard or a partition. The term counts the owners, so that the acts of an earlier one can be told and refused.
CREATE TABLE leases (
    kind       text NOT NULL,
    shard      integer NOT NULL,
    holder     uuid,
    term       bigint NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (kind, shard)
) WITH (fillfactor = 50);

-- The living processes that want leases of a kind, so that each can tell its fair share.
CREATE TABLE lease_members (
    kind       text NOT NULL,
    holder     uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (kind, holder)
) WITH (fillfactor = 50);

-- The immutable log. Ids are UUIDv7, so a range of ids is a range of time; partitions are weeks.
CREATE TABLE billing_events (
    id               uuid NOT NULL,
    tenant_id        uuid NOT NULL,
    subject          text NOT NULL,
    resource         text NOT NULL,
    resource_version bigint NOT NULL,
    correlation_id   uuid NOT NULL,
    causation_id     uuid,
    schema_version   integer NOT NULL,
    occurred_at      timestamptz NOT NULL,
    envelope         bytea NOT NULL,
    -- A range partition by id needs the id in its key; the id alone is unique.
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX billing_events_by_tenant ON billing_events (tenant_id, id);
CREATE INDEX billing_events_by_resource ON billing_events (tenant_id, resource, id);
CREATE INDEX billing_events_by_correlation ON billing_events (tenant_id, correlation_id);
CREATE INDEX billing_events_by_causation ON billing_events (tenant_id, causation_id) WHERE causation_id IS NOT NULL;

-- The links of events with several parents, so that a trail can be followed from the cause too.
CREATE TABLE event_links (
    tenant_id             uuid NOT NULL,
    event_id              uuid NOT NULL,
    linked_event_id       uuid NOT NULL,
    linked_correlation_id uuid NOT NULL,
    correlation_id        uuid NOT NULL,
    PRIMARY KEY (tenant_id, event_id, linked_event_id)
);
CREATE INDEX event_links_by_cause ON event_links (tenant_id, linked_correlation_id);
CREATE INDEX event_links_by_effect ON event_links (tenant_id, correlation_id);

-- One row per publication still to be made, deleted when it is on the bus. `purpose` is 'first', 'heal_<n>' or 'replay_<id>'.
CREATE SEQUENCE outbox_position CACHE 1;
CREATE TABLE outbox (
    event_id        uuid NOT NULL,
    purpose         text NOT NULL DEFAULT 'first',
    tenant_id       uuid NOT NULL,
    shard           smallint NOT NULL,
    priority        smallint NOT NULL DEFAULT 0,
    position        bigint NOT NULL,
    subject         text NOT NULL,
    resource        text NOT NULL,
    target          text,
    replay_id       uuid,
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    last_error      text,
    PRIMARY KEY (event_id, purpose)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
CREATE UNIQUE INDEX outbox_in_order ON outbox (shard, priority, position);
-- The rows that were refused: each holds the later ones of its resource back. Nearly always empty.
CREATE INDEX outbox_refused ON outbox (shard, tenant_id, resource, position) WHERE attempts > 0;

CREATE TABLE outbox_dead_letters (
    event_id   uuid NOT NULL,
    purpose    text NOT NULL,
    tenant_id  uuid NOT NULL,
    shard      smallint NOT NULL,
    priority   smallint NOT NULL,
    position   bigint NOT NULL,
    subject    text NOT NULL,
    resource   text NOT NULL,
    target     text,
    replay_id  uuid,
    attempts   integer NOT NULL,
    last_error text NOT NULL,
    died_at    timestamptz NOT NULL,
    PRIMARY KEY (event_id, purpose)
);
CREATE INDEX outbox_dead_letters_by_resource ON outbox_dead_letters (tenant_id, resource);

-- How far an event's first publication has come. An event in neither table is on the bus.
CREATE VIEW event_dispatch_status WITH (security_invoker = true) AS
SELECT event_id, tenant_id,
       CASE WHEN attempts > 0 THEN 'failed' ELSE 'pending' END AS dispatch_status,
       attempts, next_attempt_at, last_error
FROM outbox WHERE purpose = 'first'
UNION ALL
SELECT event_id, tenant_id, 'dead_letter', attempts, NULL, last_error
FROM outbox_dead_letters WHERE purpose = 'first';

-- How far the router has come in each partition. Locked first by every transaction of the router; the term is that of
-- its lease. `feed_position` counts the partition's rows in the feed and never goes back, whatever becomes of the stream.
CREATE TABLE router_positions (
    partition       smallint PRIMARY KEY,
    stream_identity text NOT NULL DEFAULT '',
    last_sequence   bigint NOT NULL DEFAULT 0,
    term            bigint NOT NULL DEFAULT 0,
    feed_position   bigint NOT NULL DEFAULT 0,
    gaps            bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- Which consumer has handled which event, written with the effect. Partitioned by the event's id, never by processing
-- time: a unique key on a partitioned table is unique only inside a partition.
CREATE TABLE inbox (
    consumer     text NOT NULL,
    event_id     uuid NOT NULL,
    tenant_id    uuid NOT NULL,
    processed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, event_id)
) PARTITION BY RANGE (event_id);

-- Events that a consumer could not handle yet. Only the head of a (consumer, resource) is tried.
CREATE TABLE router_waiting (
    consumer         text NOT NULL,
    resource         text NOT NULL,
    resource_version bigint NOT NULL,
    event_id         uuid NOT NULL,
    replay_id        uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    tenant_id        uuid NOT NULL,
    partition        smallint NOT NULL,
    subject          text NOT NULL,
    attempts         integer NOT NULL DEFAULT 0,
    next_attempt_at  timestamptz NOT NULL,
    last_error       text NOT NULL DEFAULT '',
    parked_at        timestamptz NOT NULL,
    PRIMARY KEY (consumer, resource, resource_version, event_id, replay_id)
);
CREATE INDEX router_waiting_due ON router_waiting (partition, next_attempt_at);

CREATE TABLE router_dead_letters (
    consumer         text NOT NULL,
    resource         text NOT NULL,
    resource_version bigint NOT NULL,
    event_id         uuid NOT NULL,
    replay_id        uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    tenant_id        uuid NOT NULL,
    partition        smallint NOT NULL,
    subject          text NOT NULL,
    attempts         integer NOT NULL,
    last_error       text NOT NULL,
    died_at          timestamptz NOT NULL,
    PRIMARY KEY (consumer, resource, resource_version, event_id, replay_id)
);

-- Weekly partitions of the log and the inbox, from the week of `first` on; run at start and by the sweeper, ahead of time.
-- UUIDv7 begins with the milliseconds since 1970 in 48 bits.
CREATE FUNCTION make_event_partitions(first timestamptz, weeks integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    week timestamptz;
    lower uuid;
    upper uuid;
    parent text;
    child text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7236002);
    FOR i IN 0 .. weeks - 1 LOOP
        week := date_trunc('week', first AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + make_interval(days => 7 * i);
        lower := rpad(lpad(to_hex((extract(epoch FROM week) * 1000)::bigint), 12, '0'), 32, '0')::uuid;
        upper := rpad(lpad(to_hex((extract(epoch FROM week + interval '7 days') * 1000)::bigint), 12, '0'), 32, '0')::uuid;
        FOREACH parent IN ARRAY ARRAY['billing_events', 'inbox'] LOOP
            child := parent || '_' || to_char(week AT TIME ZONE 'UTC', 'IYYY"w"IW');
            IF to_regclass('public.' || child) IS NULL THEN
                -- CREATE and ATTACH apart: the parent is locked for the attachment only.
                EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', child, parent);
                EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, child, lower, upper);
                made := made + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;
REVOKE ALL ON FUNCTION make_event_partitions(timestamptz, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_event_partitions(timestamptz, integer) TO tollway_worker;
SELECT make_event_partitions(now() - interval '7 days', 4);
