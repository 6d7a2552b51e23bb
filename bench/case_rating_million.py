"""A usage period with a million records, rated from its records as finalization does, against one sum of the rows.

Invariant: nothing but the rating is measured: the records are there, with their owner; how many, says
TOLLWAY_BENCH_RATING_RECORDS. Ways that need more than a sum (distinct values, events in time order, the area under a
level) have a row each.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import queries.rating

from bench.environment import Environment, Result
from billing.domain.errors import BillingError
from billing.runtime.ids import new_id
from billing.services.period_rating import rate_periods

RECORDS: Final = int(os.environ.get("TOLLWAY_BENCH_RATING_RECORDS", "1000000"))
PERIOD: Final = timedelta(days=30)
# Aggregation, model, numbers.
WAYS: Final = (
    (
        "sum",
        "graduated",
        '{"tiers": [{"up_to": "1000", "unit_amount": "0.02"}, {"up_to": "inf", "unit_amount": "0.01"}]}',
    ),
    ("unique", "per_unit", '{"unit_amount": "0.5"}'),
    (
        "sum",
        "percentage",
        '{"rate_percent": "1.5", "fixed_amount": "0.1", "free_events": 1000, "free_amount": "5000"}',
    ),
    ("weighted_sum", "per_unit", '{"unit_amount": "0.5"}'),
)
METER = """
    INSERT INTO meters (tenant_id, id, key, display_name, aggregation, unique_property, created_at)
    VALUES ($1, $2, $3, $3, $4, $5, $6)
"""
CUSTOMER = """
    INSERT INTO customers (tenant_id, id, display_name, time_zone, created_at) VALUES ($1, $2, 'C', 'UTC', $3)
"""
PLAN = """
    INSERT INTO plans (tenant_id, id, key, display_name, currency, billing_interval, created_at)
    VALUES ($1, $2, $3, $3, 'EUR', 'month', $4)
"""
PRICE = """
    INSERT INTO prices (
        tenant_id, id, plan_id, meter_id, display_name, currency, model, config, billing_timing, created_at)
    VALUES ($1, $2, $3, $4, 'Price', 'EUR', $5, $6, 'in_arrears', $7)
"""
SUBSCRIPTION = """
    INSERT INTO subscriptions (tenant_id, id, customer_id, plan_id, status, currency, billing_interval, alignment,
        time_zone, start_at, created_at)
    VALUES ($1, $2, $3, $4, 'active', 'EUR', 'month', 'anniversary', 'UTC', $5, $5)
"""
ITEM = """
    INSERT INTO subscription_items (tenant_id, id, subscription_id, customer_id, price_id, meter_id, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
PERIOD_ROW = """
    INSERT INTO usage_periods (
        tenant_id, item_id, period_start, period_end, subscription_id, customer_id, meter_id, price_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
RECORD = """
    INSERT INTO usage_records (
        tenant_id, idempotency_key, batch_id, meter_id, customer_id, used_at, quantity, properties, accepted_at, folded,
        item_id, period_start)
    SELECT $1, $2 || n, $3, $4, $5, $6::timestamptz + n * ($7::interval / ($8 + 1)), n % 1000 / 4.0,
           jsonb_build_object('user', n % 5000), $6, true, $9, $6
    FROM generate_series(1, $8::integer) AS n
"""
PLAIN_SUM = "SELECT sum(quantity) FROM usage_records WHERE tenant_id = $1 AND item_id = $2"


async def run(env: Environment) -> list[Result]:
    """Records per second, for each way to rate."""
    results = []
    for aggregation, model, config in WAYS:
        item_id = await _make(env, aggregation, model, config)
        rated = await _seconds(env, item_id)
        plain = await _plain_seconds(env, item_id)
        results.append(
            Result(
                "rating_million",
                RECORDS / rated,
                "records/s",
                RECORDS / plain,
                f"{model} by {aggregation}: {RECORDS} records in {rated:.2f} s; the limit is one sum of the rows",
            )
        )
    return results


async def _make(env: Environment, aggregation: str, model: str, config: str) -> UUID:
    """A subscription whose one period has all the records; answers its item."""
    owner: Any = await env.owner()
    tenant, now = env.tenant.id, env.clock.now()
    start = now - PERIOD
    meter, customer, plan, price, sub, item = (new_id(now) for _ in range(6))
    unique = "user" if aggregation == "unique" else None
    await owner.execute(METER, tenant, meter, str(meter), aggregation, unique, now)
    await owner.execute(CUSTOMER, tenant, customer, now)
    await owner.execute(PLAN, tenant, plan, str(plan), now)
    await owner.execute(PRICE, tenant, price, plan, meter, model, config, now)
    await owner.execute(SUBSCRIPTION, tenant, sub, customer, plan, start)
    await owner.execute(ITEM, tenant, item, sub, customer, price, meter, start)
    await owner.execute(PERIOD_ROW, tenant, item, start, now, sub, customer, meter, price)
    await owner.execute(
        RECORD, tenant, f"{item}+", item, meter, customer, start, PERIOD, RECORDS, item
    )
    await owner.execute("VACUUM ANALYZE usage_records")
    await owner.close()
    return item


async def _seconds(env: Environment, item_id: UUID) -> float:
    async with env.worker.transaction() as tx:
        start = await tx.fetchval(
            "SELECT period_start FROM usage_periods WHERE item_id = $1", item_id
        )
        rows = await queries.rating.list_periods_to_rate(
            tx, tenant_ids=[env.tenant.id], item_ids=[item_id], period_starts=[start]
        )
        began = time.perf_counter()
        (rated,) = (await rate_periods(tx, rows)).values()
        seconds = time.perf_counter() - began
    assert not isinstance(rated, BillingError), rated
    assert rated.total
    return seconds


async def _plain_seconds(env: Environment, item_id: UUID) -> float:
    owner: Any = await env.owner()
    began = time.perf_counter()
    await owner.fetchval(PLAIN_SUM, env.tenant.id, item_id)
    seconds = time.perf_counter() - began
    await owner.close()
    return seconds
