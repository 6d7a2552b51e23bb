"""Ingest beside what is stored: records per second with 10 thousand stored records against the rate with very many.

Invariant: the stored records lie in the tenant's own partition, folded, with all their indexes. How many there are
stands in the table: 500,000 by default, the 10 million of the target when it is asked for.
"""

from __future__ import annotations

import os

from bench.case_usage_ingest import WARM_UP_BATCHES, make_world, records_per_second
from bench.environment import Environment, Result
from billing.runtime.ids import new_id

SMALL = 10_000
LARGE_VARIABLE = "TOLLWAY_BENCH_RECORDS"
LARGE_DEFAULT = 500_000
LARGE_MAX = 100_000_000
PER_STATEMENT = 100_000
CALLERS = 4
BATCHES = 60

STORE = """
INSERT INTO usage_records (
    tenant_id, idempotency_key, batch_id, meter_id, customer_id, used_at, quantity, accepted_at, folded)
SELECT $1, '2012-01-01T05:00:00Z+UA+' || n, uuidv7(-interval '3 days'), $2, $3, now() - n * interval '0.1 second',
       n / 4.0, now(), true
FROM generate_series($4::bigint, $5::bigint) AS n
"""


async def run(env: Environment) -> list[Result]:
    """Two rounds of the same size, with little and with much stored."""
    large = stored_records()
    await make_world(env)
    await _store(env, 0, SMALL)
    rates, first = [], 0
    # The first round warms what the second finds warm.
    for stored in (SMALL, SMALL, large):
        await _store(env, SMALL, stored)
        batches = range(first, first + WARM_UP_BATCHES + BATCHES)
        rates.append(await records_per_second(env, batches, CALLERS))
        first = batches.stop
    note = f"{large:,} stored records against {SMALL:,}; {LARGE_VARIABLE}=10000000 for the target's count"
    return [Result("usage_growth", rates[2], "records/s", rates[1], note)]


def stored_records() -> int:
    """How many records are to be stored. Raises ValueError for what is none."""
    asked = int(os.environ.get(LARGE_VARIABLE, LARGE_DEFAULT))
    if not SMALL < asked <= LARGE_MAX:
        raise ValueError(f"{LARGE_VARIABLE} must be from {SMALL + 1} to {LARGE_MAX}, not {asked}")
    return asked


async def _store(env: Environment, first: int, last: int) -> None:
    """Stored records number `first` to `last`, of a meter and a customer of their own."""
    if first >= last:
        return
    owner = await env.owner()
    meter_id, customer_id = new_id(env.clock.now()), new_id(env.clock.now())
    try:
        for start in range(first, last, PER_STATEMENT):
            end = min(start + PER_STATEMENT, last) - 1
            await owner.execute(STORE, env.tenant.id, meter_id, customer_id, start, end)
        await owner.execute("VACUUM ANALYZE usage_records")
        await owner.execute("CHECKPOINT")
    finally:
        await owner.close()
