"""Usage path: die at every statement, come twice and in any order, race with finalizers; nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest

from billing.runtime.db import Connection, Database
from billing.services.actor import Cause
from billing.services.incoming import Incoming
from billing.services.quantities import PeriodKey
from billing.services.rating import RatingSettings
from billing.services.reconciliation import unreconciled_buckets
from billing.services.usage_fold import fold
from billing.services.usage_ingest import record_usage
from tests.conftest import LONG, Databases
from tests.services.usage_world import Sub, World, make_world, recorded_quantities
from workers.rating import RatingWorker

DAY = timedelta(days=1)
SLICE = 4 * DAY
CRASH_POINTS_MAX = 60
RUNS = 60 if LONG else 4
ROUNDS = 25


class Died(Exception):
    """The process dies here."""


Before = Callable[[], Awaitable[None]]


class Watched:
    """A connection that awaits something before each of its statements: its death, or the others' turn."""

    def __init__(self, connection: Connection, before: Before) -> None:
        self._connection, self._before = connection, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def fetch(self, *arguments: Any) -> Any:
        await self._before()
        return await self._connection.fetch(*arguments)

    async def fetchrow(self, *arguments: Any) -> Any:
        await self._before()
        return await self._connection.fetchrow(*arguments)

    async def execute(self, *arguments: Any) -> Any:
        await self._before()
        return await self._connection.execute(*arguments)


@asynccontextmanager
async def mortal(
    database: Database, tenant_id: UUID | None, fatal: int
) -> AsyncIterator[Connection]:
    """A transaction that dies instead of running its statement number `fatal`."""
    numbers = itertools.count()

    async def die() -> None:
        if next(numbers) == fatal:
            raise Died

    async with database.transaction(tenant_id) as tx:
        yield cast(Connection, Watched(tx, die))


@pytest.fixture
async def world(databases: Databases) -> World:
    return await make_world(databases)


async def test_an_ingest_that_dies_anywhere_is_repeated_without_loss_or_double(
    world: World,
) -> None:
    batch = world.batch({"key": "a"}, {"key": "b", "quantity": "2"}, {"key": "a"})
    cause = Cause("key_test", world.new())
    for fatal in range(CRASH_POINTS_MAX):
        try:
            async with mortal(world.databases.api, world.tenant_id, fatal) as tx:
                await record_usage(tx, world.tenant_id, batch, cause, now=world.now)
            break
        except Died:
            assert await world.value("SELECT count(*) FROM usage_records") == 0
            assert await world.value("SELECT count(*) FROM billing_events") == 0
    else:
        pytest.fail("the ingest never ran to its end")
    assert fatal > 3
    assert await world.value("SELECT count(*) FROM usage_records") == 2
    assert len(await world.reported()) == 1


async def test_a_fold_that_dies_anywhere_is_repeated_without_loss_or_double(world: World) -> None:
    sub = await world.served()
    await world.customer("DL")
    await world.record({"key": "a"}, {"key": "b", "quantity": "2"}, {"key": "c", "customer": "DL"})
    reported = await world.reported()
    for fatal in range(CRASH_POINTS_MAX):
        try:
            async with mortal(world.worker, None, fatal) as tx:
                assert not await fold(tx, reported, world.now)
            break
        except Died:
            assert await world.buckets() == {}
            assert await world.value("SELECT count(*) FROM usage_records WHERE folded") == 0
    else:
        pytest.fail("the fold never ran to its end")
    assert fatal > 2
    assert await world.buckets() == {sub.item_id: (2, Decimal(3))}
    assert await world.value("SELECT count(*) FROM usage_period_marks") == 1


async def test_events_that_come_twice_and_shuffled_count_once(world: World) -> None:
    """Also without the inbox: the fold itself gives each record one owner."""
    subs = [await world.served(), await world.served(await _customer(world, "DL"))]
    for n in range(12):
        await world.record(
            {"key": f"a{n}", "quantity": str(n)},
            {"key": f"b{n}", "customer": "DL", "at": world.now - n * 2 * DAY},
        )
    deliveries = (await world.reported()) * 2
    random.Random(7).shuffle(deliveries)
    for start in range(0, len(deliveries), 5):
        await world.fold(deliveries[start : start + 5])
    assert await world.buckets() == {
        subs[0].item_id: (12, Decimal(66)),
        subs[1].item_id: (12, Decimal(12)),
    }
    await _reconciled(world)


@pytest.mark.parametrize("seed", range(RUNS))
async def test_every_record_is_in_one_finalized_amount_or_marked(world: World, seed: int) -> None:
    """Writers, folds, finalizers, a rating worker and a late subscription at once, then the house is drained."""
    house = Interleaving(world, random.Random(seed))
    await house.begin()
    async with asyncio.TaskGroup() as group:
        for part in (house.write, house.write, house.fold, house.fold, house.finalize, house.rate):
            group.create_task(part())
        group.create_task(house.cover_late())
    await house.drain()
    await house.check()


class Interleaving:
    """What runs at once. A finalizer bills one period after the other, as the design says a finalizer does."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.subs: list[Sub] = []
        self.billed: dict[PeriodKey, Fraction] = {}
        self.waiting: dict[UUID, Incoming] = {}
        self.taken: set[UUID] = set()
        self.written = 0

    async def begin(self) -> None:
        for name in ("UA", "DL"):
            if name != "UA":
                await self.world.customer(name)
            sub = await self.world.subscribe(name, self.world.now - 8 * SLICE)
            for n in range(8, -1, -1):
                start = self.world.now - n * SLICE
                await self.world.period(sub, start, start + SLICE)
            self.subs.append(sub)
        await self.world.customer("LATE")

    async def write(self) -> None:
        for _ in range(ROUNDS):
            self.written += 1
            await self.world.record(
                *(
                    {
                        "key": f"{self.written}-{n}",
                        "customer": self.rng.choice(["UA", "DL", "LATE"]),
                        "quantity": str(self.rng.randint(1, 9)),
                        "at": self.world.now - self.rng.random() * 8 * SLICE,
                    }
                    for n in range(self.rng.randint(1, 6))
                )
            )
            await self._pause()

    async def fold(self) -> None:
        for _ in range(ROUNDS * 2):
            await self._fold_some()
            await self._pause()

    async def _fold_some(self) -> None:
        fresh = [event for event in await self.world.reported() if event.event_id not in self.taken]
        self.taken |= {event.event_id for event in fresh}
        batch = fresh + list(self.waiting.values())
        self.waiting = {}
        try:
            async with self.world.worker.transaction() as tx:
                slow = cast(Connection, Watched(tx, self._pause))
                left = set(await fold(slow, batch, self.world.now))
                await self._pause()
        except asyncpg.DeadlockDetectedError:
            pytest.fail("the fold's locks are sorted")
        self.waiting |= {event.event_id: event for event in batch if event.event_id in left}

    async def finalize(self) -> None:
        for n in range(8, 0, -1):
            for sub in self.subs:
                await self._pause()
                await self._finalize(sub, self.world.now - n * SLICE)

    async def _finalize(self, sub: Sub, start: Any) -> None:
        key = PeriodKey(self.world.tenant_id, sub.item_id, start)
        which = "WHERE tenant_id = $1 AND item_id = $2 AND period_start = $3"
        names = (key.tenant_id, key.item_id, key.period_start)
        await self.world.execute(
            f"UPDATE usage_periods SET closing_until = now() + interval '5 s' {which}",
            *names,
        )
        async with self.world.worker.transaction() as tx:
            await tx.execute("SELECT FROM subscriptions WHERE id = $1 FOR NO KEY UPDATE", sub.id)
            await tx.execute(
                f"SELECT FROM usage_periods {which} FOR NO KEY UPDATE",
                *names,
            )
            await self._pause()
            billed = (await recorded_quantities(tx, [key]))[key]
            await tx.execute(
                f"UPDATE usage_periods SET status = 'billed', closing_until = NULL {which}",
                *names,
            )
            await tx.execute(
                f"DELETE FROM usage_period_marks {which}",
                *names,
            )
            await self._pause()
        self.billed[key] = billed

    async def rate(self) -> None:
        worker = RatingWorker(
            self.world.worker, self.world.databases.clock, RatingSettings(interval_s=0.0)
        )
        for _ in range(ROUNDS):
            await worker.step()
            await self._pause()

    async def cover_late(self) -> None:
        """Coverage of a customer whose usage is on its way, made as the design says: the customer's row first."""
        await self._pause()
        price_id = await self.world.price("minutes")
        async with self.world.worker.transaction() as tx:
            await tx.execute(
                "SELECT FROM customers WHERE id = $1 FOR NO KEY UPDATE",
                self.world.customers["LATE"],
            )
            sub = await self.world.subscribe(
                "LATE", self.world.now - 5 * DAY, price_id=price_id, tx=tx
            )
            self.boundary = await tx.fetchval(
                "SELECT count(*) FROM usage_records WHERE customer_id = $1 AND folded",
                sub.customer_id,
            )
            await self._pause()
        await self._pause()
        await self.world.period(sub, self.world.now - 5 * DAY, self.world.now + DAY)
        self.late = sub

    async def drain(self) -> None:
        for _ in range(10):
            await self._fold_some()
        worker = RatingWorker(
            self.world.worker, self.world.databases.clock, RatingSettings(interval_s=0.0)
        )
        while await worker.step():
            pass

    async def check(self) -> None:
        world = self.world
        assert self.waiting == {}
        assert await world.value("SELECT count(*) FROM usage_records WHERE NOT folded") == 0
        await _reconciled(world)
        async with world.worker.transaction() as tx:
            now = await recorded_quantities(tx, list(self.billed))
        marked = {
            PeriodKey(row["tenant_id"], row["item_id"], row["period_start"])
            for row in await world.rows("SELECT * FROM usage_period_marks WHERE kind = 'adjust'")
        }
        assert {key for key in now if now[key] != self.billed[key]} <= marked
        # What was written before there was a subscription stays unassigned, what came after has found it.
        unassigned = await world.value(
            "SELECT count(*) FROM usage_records WHERE customer_id = $1 AND item_id IS NULL"
            " AND used_at >= $2",
            self.late.customer_id,
            world.now - 5 * DAY,
        )
        assert unassigned <= self.boundary
        charges = await world.rows(
            "SELECT c.quantity, (SELECT sum(quantity) FROM usage_records r WHERE r.item_id = c.item_id"
            " AND r.period_start = c.period_start) AS recorded FROM charges c"
            " JOIN usage_periods p USING (tenant_id, item_id, period_start) WHERE p.status <> 'billed'"
        )
        assert all(row["quantity"] == row["recorded"] for row in charges)

    async def _pause(self) -> None:
        """Lets the others go first, for a random while that no assertion depends on."""
        await asyncio.sleep(self.rng.random() * 0.006)


async def _reconciled(world: World) -> None:
    async with world.worker.transaction() as tx:
        assert await unreconciled_buckets(tx, None) == 0


async def _customer(world: World, name: str) -> str:
    await world.customer(name)
    return name
