"""Dispatch beside an archive: the rate with 10 thousand archived events against the rate with very many.

Invariant: the archive lies in the log as it does in the house, partitioned and with all its indexes; nothing of it is
queued. How much there is stands in the table: 300,000 by default, the 10 million of the target when it is asked for.
"""

from __future__ import annotations

import os

import asyncpg

from bench.case_dispatch import dispatch_all, fill
from bench.environment import Environment, Result
from billing.services.leases import shard_count

SMALL = 10_000
LARGE_VARIABLE = "TOLLWAY_BENCH_ARCHIVE"
LARGE_DEFAULT = 300_000
LARGE_MAX = 100_000_000
PER_STATEMENT = 100_000
EVENTS = 30_000  # dispatched in each round

# As the house's own: UUIDv7 ids of some days ago, many resources, an envelope of the usual size.
ARCHIVE = """
INSERT INTO billing_events (
    id, tenant_id, subject, resource, resource_version, correlation_id, schema_version, occurred_at, envelope)
SELECT uuidv7(-interval '3 days'), $1, 'usage.reported', 'bat_' || n % 100000, n, uuidv7(-interval '3 days'), 1, now(),
       decode(repeat('61', 300), 'hex')
FROM generate_series($2::bigint, $3::bigint) AS n
"""


async def run(env: Environment) -> list[Result]:
    """Two rounds of the same size, with little and with much archived."""
    large = archived_events()
    shards = await shard_count(env.worker)
    await env.bus.ensure_streams(shards)
    await _archive(env, 0, SMALL)
    # The first round warms what the second finds warm.
    for _ in range(2):
        await fill(env, EVENTS)
        small_rate = await dispatch_all(env, shards, EVENTS)
    await _archive(env, SMALL, large)
    await fill(env, EVENTS)
    large_rate = await dispatch_all(env, shards, EVENTS)
    note = f"{large:,} archived events against {SMALL:,}; {LARGE_VARIABLE}=10000000 for the target's count"
    return [Result("archive", large_rate, "events/s", small_rate, note)]


def archived_events() -> int:
    """How many events the archive is to have. Raises ValueError for what is none."""
    asked = int(os.environ.get(LARGE_VARIABLE, LARGE_DEFAULT))
    if not SMALL < asked <= LARGE_MAX:
        raise ValueError(f"{LARGE_VARIABLE} must be from {SMALL + 1} to {LARGE_MAX}, not {asked}")
    return asked


async def _archive(env: Environment, first: int, last: int) -> None:
    """Archived events number `first` to `last`, as of some days ago, and what autovacuum does with them."""
    owner = await asyncpg.connect(env.database_url)
    try:
        for start in range(first, last, PER_STATEMENT):
            end = min(start + PER_STATEMENT, last) - 1
            await owner.execute(ARCHIVE, env.tenant.id, start, end)
        await owner.execute("VACUUM ANALYZE billing_events")
        await owner.execute("CHECKPOINT")
    finally:
        await owner.close()
