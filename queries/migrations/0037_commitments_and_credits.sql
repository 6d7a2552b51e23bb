-- Invoice path: what a billing period owes to its plan, and which charge a credit gives back.

-- The plan whose commitment the period owes that the cycle ends; null where there is none: no period ends, or another
-- system has billed it. A change at the period's end leaves it.
ALTER TABLE billing_cycles ADD COLUMN plan_id uuid;

-- The charge that a credit gives back, whose discount and tax it takes.
ALTER TABLE fee_periods ADD COLUMN gives_back bigint;
ALTER TABLE fee_periods ADD FOREIGN KEY (tenant_id, gives_back) REFERENCES fee_periods (tenant_id, id);
