-- The catalog in full, the one meaning of "effective record", and charges by group value.

-- Immutable but for the display name: what a meter counts is what was billed by it. `value_property` names the property
-- that carries the value, `unique_property` the one whose distinct values are counted. `filters` is what
-- billing.domain.filters writes.
ALTER TABLE meters
    ADD COLUMN value_property text,
    ADD COLUMN unique_property text,
    ADD COLUMN filters jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN group_by text[] NOT NULL DEFAULT '{}';

-- `granularity`: to what instants a plan cuts its periods. `commitment` is exact major units of a full period.
ALTER TABLE plans
    ADD COLUMN granularity text NOT NULL DEFAULT 'second' CHECK (granularity IN ('second', 'day')),
    ADD COLUMN commitment numeric CHECK (commitment > 0),
    ADD COLUMN archived_at timestamptz;

-- A superseded price is archived and names its successor: subscriptions that have it keep it, new ones do not get it.
ALTER TABLE prices
    ADD COLUMN archived_at timestamptz,
    ADD COLUMN superseded_by uuid,
    ADD FOREIGN KEY (tenant_id, superseded_by) REFERENCES prices (tenant_id, id),
    ADD CHECK (superseded_by IS NULL OR archived_at IS NOT NULL);

-- The running charges of a usage period are the lines that an invoice would have: one for each group value ('' where the
-- meter has no group-by), and the true-up.
ALTER TABLE charges
    ADD COLUMN kind text NOT NULL DEFAULT 'usage' CHECK (kind IN ('usage', 'true_up')),
    ADD COLUMN group_key text NOT NULL DEFAULT '';
ALTER TABLE charges DROP CONSTRAINT charges_pkey, ADD PRIMARY KEY (tenant_id, item_id, period_start, kind, group_key);

-- A true-up is a line of its own: of a price's minimum or maximum, or of the plan's commitment. `dimensions` are the
-- group's values by property.
ALTER TABLE invoice_lines ADD COLUMN dimensions jsonb NOT NULL DEFAULT '{}';
ALTER TABLE invoice_lines
    DROP CONSTRAINT invoice_lines_kind_check,
    ADD CONSTRAINT invoice_lines_kind_check CHECK (kind IN ('fee', 'usage', 'true_up', 'commitment'));

CREATE INDEX subscriptions_rating_failed ON subscriptions (tenant_id, id) WHERE rating_failure IS NOT NULL;

-- Whether a record's properties pass all filters of a meter, as billing.domain.filters says: an absent property is in no
-- list of values.
CREATE FUNCTION usage_passes(filters jsonb, properties jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(bool_and(CASE f.condition ->> 'operator'
        WHEN 'in' THEN coalesce(jsonb_exists(f.condition -> 'values', properties ->> (f.condition ->> 'property')), false)
        WHEN 'not_in'
            THEN NOT coalesce(jsonb_exists(f.condition -> 'values', properties ->> (f.condition ->> 'property')), false)
        WHEN 'exists' THEN coalesce(jsonb_exists(properties, f.condition ->> 'property'), false)
    END), true)
    FROM jsonb_array_elements(filters) AS f (condition)
$$;

-- The group's values in the order of the meter's group-by, as a JSON list; '' without group-by. An absent property groups
-- as the empty text.
CREATE FUNCTION usage_group_key(group_by text[], properties jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN group_by = '{}' THEN '' ELSE (
        SELECT jsonb_agg(coalesce(properties ->> g.name, '') ORDER BY g.place)::text
        FROM unnest(group_by) WITH ORDINALITY AS g (name, place)
    ) END
$$;

-- What counts of the records, and nothing else does: of each record and its revisions the highest folded one, wherever it
-- belongs, unless that one is voided. Whoever computes money, buckets or figures from records reads this view.
CREATE VIEW effective_usage_records WITH (security_invoker = true) AS
SELECT r.tenant_id, r.idempotency_key, coalesce(r.root_key, r.idempotency_key) AS root_key, r.revision, r.batch_id,
       r.meter_id, r.customer_id, r.subscription_id, r.used_at, r.quantity, r.properties, r.accepted_at, r.item_id,
       r.period_start
FROM usage_records r
WHERE r.folded AND NOT r.voided
  AND NOT EXISTS (
      SELECT FROM usage_records later
      WHERE later.tenant_id = r.tenant_id AND later.root_key = coalesce(r.root_key, r.idempotency_key)
        AND later.revision > r.revision AND later.folded
  );

-- The effective records that have an owner and pass their meter's filters, with the group that they count in.
CREATE VIEW counted_usage WITH (security_invoker = true) AS
SELECT e.tenant_id, e.item_id, e.period_start, e.root_key, e.used_at, e.quantity,
       e.properties ->> m.unique_property AS unique_value,
       CASE WHEN m.group_by = '{}' THEN '' ELSE usage_group_key(m.group_by, e.properties) END AS group_key
FROM effective_usage_records e
JOIN meters m ON m.tenant_id = e.tenant_id AND m.id = e.meter_id
WHERE e.item_id IS NOT NULL AND (m.filters = '[]' OR usage_passes(m.filters, e.properties));

GRANT SELECT ON effective_usage_records, counted_usage TO tollway_api, tollway_worker;
