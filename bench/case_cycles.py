"""Cycles: subscriptions closed, drafted and made final, with ten usage lines each and all events committed.

The limit is the same statements with the same arguments, in the same transactions, from memory: no rule, no price, no
event is computed. They are recorded in a transaction that is rolled back, and then run for good against the clock.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar
from uuid import UUID

from tollway.event.v1 import event_pb2

from bench.environment import Environment, Result
from billing.domain.period import Interval, Schedule
from billing.runtime.db import Connection
from billing.services import draft_claims, events
from billing.services.draft_claims import FinalizationSettings
from billing.services.due_subscriptions import Share, run_due
from billing.services.finalization import finalize
from billing.services.incoming import Incoming
from billing.services.invoice_drafts import draft_for_cycles

SUBSCRIPTIONS: Final = 2_000
LIMIT_SUBSCRIPTIONS: Final = 1_000
WARM_UP: Final = 200
ITEMS: Final = 10
RECORDS_PER_ITEM: Final = 3
RECORDS_OF_ONE: Final = 100_000
BATCH: Final = 500
SETTINGS: Final = FinalizationSettings()
T = TypeVar("T")
Work = Callable[[Connection], Awaitable[T]]

CATALOG = """
INSERT INTO plans (tenant_id, id, key, display_name, currency, billing_interval, created_at)
VALUES ($1, $2, 'bench', 'Bench', 'EUR', 'month', now());
"""
METERS = """
INSERT INTO meters (tenant_id, id, key, display_name, aggregation, created_at)
SELECT $1, gen_random_uuid(), 'meter-' || n, 'Meter ' || n, 'sum', now() FROM generate_series(1, $2::int) AS n
"""
PRICES = """
INSERT INTO prices (tenant_id, id, plan_id, meter_id, display_name, currency, model, config, billing_timing, created_at)
SELECT m.tenant_id, gen_random_uuid(), $2, m.id, m.display_name, 'EUR', 'per_unit', '{"unit_amount": "0.0123"}',
       'in_arrears', now()
FROM meters m WHERE m.tenant_id = $1
"""
CUSTOMERS = """
INSERT INTO customers (tenant_id, id, display_name, time_zone, created_at)
SELECT $1, gen_random_uuid(), 'Customer ' || n, 'UTC', now() FROM generate_series(1, $2::int) AS n
RETURNING id
"""
SUBSCRIBE = """
INSERT INTO subscriptions (
    tenant_id, id, customer_id, plan_id, status, currency, billing_interval, alignment, time_zone, start_at, anchor_at,
    period_index, period_start, period_end, next_due_at, created_at)
SELECT $1, c, c, $3, 'active', 'EUR', 'month', 'anniversary', 'UTC', $4, $4, 0, $4, $5, $5, $4
FROM unnest($2::uuid[]) AS c
"""
ITEM_ROWS = """
INSERT INTO subscription_items (tenant_id, id, subscription_id, customer_id, price_id, meter_id, created_at)
SELECT $1, gen_random_uuid(), c, c, p.id, p.meter_id, $3 FROM unnest($2::uuid[]) AS c
JOIN prices p ON p.tenant_id = $1
"""
PERIODS = """
INSERT INTO usage_periods (
    tenant_id, item_id, period_start, period_end, subscription_id, customer_id, meter_id, price_id, status, bill_kind,
    bill_boundary)
SELECT i.tenant_id, i.id, $3, $4, i.subscription_id, i.customer_id, i.meter_id, i.price_id, 'rated', 'period', $4
FROM subscription_items i WHERE i.tenant_id = $1 AND i.subscription_id = ANY ($2::uuid[])
"""
CYCLES = """
INSERT INTO billing_cycles (tenant_id, subscription_id, kind, boundary, id, period_start)
SELECT $1, c, 'period', $4, gen_random_uuid(), $3 FROM unnest($2::uuid[]) AS c
"""
RECORDS = """
INSERT INTO usage_records (
    tenant_id, idempotency_key, batch_id, meter_id, customer_id, used_at, quantity, accepted_at, folded, item_id,
    period_start)
SELECT i.tenant_id, i.id || '-' || n, i.id, i.meter_id, i.customer_id, $3::timestamptz + n * interval '1 second',
       n + 0.25, $3, true, i.id, $3
FROM subscription_items i, generate_series(1, $4::int) AS n
WHERE i.tenant_id = $1 AND i.subscription_id = ANY ($2::uuid[])
"""


@dataclass(slots=True)
class Recorder:
    """A transaction that remembers its statements."""

    tx: Any
    statements: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    async def _do(self, name: str, *arguments: Any) -> Any:
        self.statements.append((name, arguments))
        return await getattr(self.tx, name)(*arguments)

    def __getattr__(self, name: str) -> Any:
        return partial(self._do, name)


@dataclass(slots=True)
class Timed:
    """Runs transactions one after the other on one session, and adds up how long they take.

    With `replaying`, only the statements count, without what they are computed from.
    """

    connection: Any
    replaying: bool
    seconds: float = 0.0

    async def run(self, work: Work[T]) -> T:
        """One transaction; answers what `work` does."""
        began = time.perf_counter()
        await self.connection.execute("BEGIN")
        recorder: Any = Recorder(self.connection)
        result = await work(recorder if self.replaying else self.connection)
        if self.replaying:
            await self.connection.execute("ROLLBACK")
            began = time.perf_counter()
            await self.connection.execute("BEGIN")
            for name, arguments in recorder.statements:
                await getattr(self.connection, name)(*arguments)
        await self.connection.execute("COMMIT")
        self.seconds += time.perf_counter() - began
        return result


async def run(env: Environment) -> list[Result]:
    """The statements alone, then the services, on as many subscriptions each; then one with very many records."""
    plan = await catalog(env)
    # As in a house that has billed before: the planner knows nothing of tables that were always empty.
    await cycle(env, plan, WARM_UP, RECORDS_PER_ITEM)
    few, many = round(LIMIT_SUBSCRIPTIONS * env.scale), round(SUBSCRIPTIONS * env.scale)
    bare = await cycle(env, plan, few, RECORDS_PER_ITEM, replaying=True)
    figures = await cycle(env, plan, many, RECORDS_PER_ITEM)
    limit = few / sum(bare.values())
    parts = ", ".join(f"{name} {many / seconds:,.0f}/s" for name, seconds in figures.items())
    results = [
        Result(
            "cycles",
            many / sum(figures.values()),
            "subscriptions/s",
            limit,
            f"the same statements without domain code ({parts})",
        )
    ]
    records = round(RECORDS_OF_ONE * env.scale)
    one = await cycle(env, plan, 1, records)
    results.append(
        Result(
            "cycles_of_one",
            records * ITEMS / one["finalize"],
            "records/s",
            None,
            f"{records * ITEMS:,} records of one subscription are made final in {one['finalize']:.2f} s",
        )
    )
    return results


async def catalog(env: Environment) -> UUID:
    """A plan with a price per meter."""
    owner = await env.owner()
    plan: UUID = await owner.fetchval("SELECT gen_random_uuid()")
    await owner.execute(CATALOG.strip().rstrip(";"), env.tenant.id, plan)
    await owner.execute(METERS, env.tenant.id, ITEMS)
    await owner.execute(PRICES, env.tenant.id, plan)
    await owner.close()
    return plan


async def cycle(
    env: Environment, plan: UUID, count: int, records: int, *, replaying: bool = False
) -> dict[str, float]:
    """Seconds of each step for so many subscriptions whose period ends now."""
    await subscribe(env, plan, count, records)
    now = env.clock.now()
    seconds = {}
    async with env.worker.connection() as connection:
        for name, step in (("close", _close), ("draft", _draft), ("finalize", _finalize)):
            timed = Timed(connection, replaying)
            done = await step(timed, now)
            assert done == count, f"{name}: {done} of {count}"
            seconds[name] = timed.seconds
    return seconds


async def subscribe(
    env: Environment, plan: UUID, count: int, records: int, *, ahead: int = 0
) -> None:
    """So many subscriptions whose period ended last midnight, or so many months later."""
    owner = await env.owner()
    today = env.clock.now()
    midnight = datetime(today.year, today.month, min(today.day, 28), tzinfo=UTC)
    schedule = Schedule(midnight, "UTC", Interval.MONTH)
    start, end = schedule.boundary(ahead - 1), schedule.boundary(ahead)
    tenant = env.tenant.id
    customers = [row["id"] for row in await owner.fetch(CUSTOMERS, tenant, count)]
    await owner.execute(SUBSCRIBE, tenant, customers, plan, start, end)
    await owner.execute(ITEM_ROWS, tenant, customers, start)
    await owner.execute(PERIODS, tenant, customers, start, end)
    await owner.execute(CYCLES, tenant, customers, start, end)
    await owner.execute(RECORDS, tenant, customers, start, records)
    await owner.execute("ANALYZE")
    await owner.close()


async def _close(timed: Timed, now: datetime) -> int:
    closed = 0
    while True:
        done = await timed.run(lambda tx: run_due(tx, Share.OLDEST, batch_max=BATCH, now=now))
        if not done:
            return closed
        closed += done


async def _draft(timed: Timed, now: datetime) -> int:
    rows = await timed.connection.fetch(
        "SELECT e.* FROM billing_events e WHERE e.subject = 'billing.cycle.closed'"
        " AND NOT EXISTS (SELECT FROM inbox i WHERE i.event_id = e.id) ORDER BY e.id"
    )
    arrived = [_incoming(row) for row in rows]
    for start in range(0, len(arrived), BATCH):
        batch = arrived[start : start + BATCH]

        async def work(tx: Connection, batch: list[Incoming] = batch) -> None:
            fresh = [(event.tenant_id, event.event_id) for event in batch]
            await events.consume_once(tx, "invoice", fresh)
            await draft_for_cycles(tx, batch, now, grace=timedelta())

        await timed.run(work)
    return len(arrived)


async def _finalize(timed: Timed, now: datetime) -> int:
    final = 0
    while True:
        claimed = await timed.run(lambda tx: draft_claims.claim_due(tx, None, SETTINGS, now))
        if not claimed:
            return final
        done = await timed.run(lambda tx, claimed=claimed: finalize(tx, claimed, now=now))  # type: ignore[misc]
        assert not done.left
        final += len(done.invoices)


def _incoming(row: Any) -> Incoming:
    return Incoming(
        row["id"],
        row["tenant_id"],
        row["subject"],
        row["resource"],
        row["resource_version"],
        0,
        event_pb2.Event.FromString(row["envelope"]),
    )
