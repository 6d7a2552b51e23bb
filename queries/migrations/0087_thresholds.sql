-- Usage path, step 3: a threshold is compared with what was used, and crossed once in a billing period however it ends.

-- What a group used, before the price divided or rounded it; null where an earlier release rated it.
ALTER TABLE charges ADD COLUMN measured numeric;

-- Where the billing period begins: its end moves when the subscription is canceled or changes its interval. Null where an
-- earlier release told the crossing.
ALTER TABLE usage_threshold_crossings ADD COLUMN period_start timestamptz;
CREATE UNIQUE INDEX usage_threshold_crossings_once
    ON usage_threshold_crossings (tenant_id, threshold_id, subscription_id, period_start);
