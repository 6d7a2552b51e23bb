-- Replay path: targets beside the bus, the states of a replay, and the memory of forced runs.

ALTER TABLE replays DROP CONSTRAINT replays_status_check;
ALTER TABLE replays ADD CHECK (status IN ('running', 'paused', 'canceled', 'finished'));
ALTER TABLE replays
    -- As billing/domain/replay.py writes it: bus, consumer:usage, endpoint:whe_…, dead_letters.
    ADD COLUMN target text NOT NULL DEFAULT 'bus',
    -- Why it is paused or was canceled.
    ADD COLUMN status_note text NOT NULL DEFAULT '',
    -- How many failures were accepted by resuming; more pause it again where it stops on errors.
    ADD COLUMN failures_accepted bigint NOT NULL DEFAULT 0,
    -- How often what was lost on the way was sent again, each time under bus ids of their own.
    ADD COLUMN rounds integer NOT NULL DEFAULT 0;
ALTER TABLE replays ALTER COLUMN target DROP DEFAULT;

DROP INDEX replays_active;
CREATE UNIQUE INDEX replays_active ON replays (tenant_id, target) WHERE status IN ('running', 'paused');
-- One token starts one replay in each tenant that its plan spans.
ALTER TABLE replays DROP CONSTRAINT replays_token_nonce_key;
CREATE UNIQUE INDEX replays_by_token ON replays (token_nonce, tenant_id);

-- Which event a forced replay has run for which consumer. Beside the inbox, which knows an event once.
CREATE TABLE inbox_replays (
    tenant_id    uuid NOT NULL REFERENCES tenants (id),
    consumer     text NOT NULL,
    event_id     uuid NOT NULL,
    replay_id    uuid NOT NULL,
    processed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, consumer, event_id, replay_id)
);
ALTER TABLE inbox_replays ENABLE ROW LEVEL SECURITY;
ALTER TABLE inbox_replays FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON inbox_replays TO tollway_api
    USING (tenant_id = nullif(current_setting('tollway.tenant', true), '')::uuid);
GRANT SELECT ON inbox_replays TO tollway_api;
GRANT SELECT, INSERT ON inbox_replays TO tollway_worker;

-- Where the inbox's oldest partition begins. Older events cannot be told from new ones.
CREATE FUNCTION oldest_inbox_id() RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT min((regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([0-9a-f-]{36})''\)'))[1] COLLATE "C")::uuid
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'inbox'::regclass
$$;
