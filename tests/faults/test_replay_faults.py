"""Replay path: die at every statement, and by kill -9; what goes on afterwards repeats nothing and skips nothing."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import pytest

from billing.domain.ids import Prefix, encode
from billing.domain.replay import Effects, Mode, Target, TargetKind
from billing.runtime.db import Connection, Database
from billing.services.consumers import WANTED
from billing.services.replays import ReplayView, StartOrder, start_replay
from tests.conftest import LONG, Databases
from tests.replay_world import (
    ACTOR,
    DRAFTED,
    REPORTED,
    ReplayWorld,
    in_turn,
    make_world,
)
from tests.services.usage_world import World as UsageWorld
from tests.webhook_world import webhook_world
from workers.replay import ReplaySettings, ReplayWorker

STATEMENTS_MAX = 400
SMALL = ReplaySettings(slice_max=4, queued_max=1_000)

# A process that carries replays on, one event a transaction, until it is killed.
ENDLESS = """
import asyncio, sys
from billing.runtime.clock import DatabaseClock
from billing.runtime.db import DatabaseSettings, Role, connect
from billing.services.consumers import WANTED
from workers.replay import ReplaySettings, ReplayWorker

async def main():
    database = await connect(sys.argv[1], Role.WORKER, DatabaseSettings())
    settings = ReplaySettings(slice_max=1, queued_max=10_000, queued_first=10_000)
    worker = ReplayWorker(database, DatabaseClock(), WANTED, settings)
    while True:
        await worker.step()

asyncio.run(main())
"""


class Died(BaseException):
    """The process dies here: nothing that handles errors gets to see it."""


class Mortal:
    """A database whose user dies instead of running statement number `fatal`."""

    def __init__(self, database: Database, fatal: int) -> None:
        self._database, self._fatal = database, fatal
        self._numbers = itertools.count()

    @asynccontextmanager
    async def transaction(self, tenant_id: UUID | None = None) -> AsyncIterator[Connection]:
        async with self._database.transaction(tenant_id) as tx:
            yield cast(Connection, _Watched(tx, self._count))
            self._count()  # before the commit

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        async with self._database.connection() as connection:
            yield connection

    def _count(self) -> None:
        if next(self._numbers) == self._fatal:
            raise Died


class _Watched:
    def __init__(self, connection: Connection, count: Any) -> None:
        self._connection, self._count = connection, count

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._connection, name)
        if name in ("fetch", "fetchrow", "execute"):
            self._count()
        return call


@pytest.fixture
async def world(databases: Databases) -> ReplayWorld:
    return await make_world(databases)


async def run_out(worker: ReplayWorker) -> None:
    while await worker.step():
        pass


async def test_a_start_that_dies_anywhere_leaves_nothing_and_can_be_done_again(
    world: ReplayWorld,
) -> None:
    await world.history(DRAFTED)
    confirmed = world.confirm(await world.plan())
    cause = world.cause()
    log = await world.value("SELECT count(*) FROM billing_events")
    for fatal in range(STATEMENTS_MAX):
        database = Mortal(world.databases.api, fatal)
        try:
            async with database.transaction(world.tenant_id) as tx:
                await start_replay(tx, confirmed, StartOrder(cause, "why"), now=world.now)
            break
        except Died:
            for table in ("replays", "outbox"):
                assert await world.value(f"SELECT count(*) FROM {table}") == 0
            assert await world.value("SELECT count(*) FROM billing_events") == log
    assert fatal > 4
    assert [row["actor"] for row in await world.fetch("SELECT actor FROM replays")] == [ACTOR]


async def test_a_worker_that_dies_at_any_statement_is_followed_without_loss_or_double(
    world: ReplayWorld,
) -> None:
    ids = await world.history(*in_turn([DRAFTED, REPORTED], 10))
    died = True
    for fatal in range(STATEMENTS_MAX):
        view = await world.started("invoice.*", "usage.*")
        died = await until_death(mortal_worker(world, fatal))
        seen = await world.seen(view.row.id)
        # What is armed is a beginning of the log, each event once and counted.
        assert await world.queued(view.row.id) == ids[: seen.row.armed]
        await run_out(worker := mortal_worker(world, STATEMENTS_MAX))
        assert await world.take(view.row.id) == ids
        died = await until_death(mortal_worker(world, fatal)) or died
        await run_out(worker)
        ended = await world.seen(view.row.id)
        assert (ended.row.status, ended.row.armed, ended.row.skipped) == ("finished", 10, 10)
        if not died:
            break
    assert not died
    assert fatal > 15
    told = "SELECT count(*) FROM billing_events WHERE subject = 'billing.replay.finished'"
    assert await world.value(told) == fatal + 1


async def test_a_replay_to_an_endpoint_whose_worker_dies_anywhere_makes_each_delivery_once(
    databases: Databases,
) -> None:
    async with webhook_world(databases) as hooks:
        world = ReplayWorld(databases, hooks.tenant_id)
        endpoint = await hooks.endpoint("/hook", "customer.*")
        await hooks.deliverable(5)
        missed = [event.event_id for event in await hooks.emit(4)]
        await world.publish()
        target = Target(TargetKind.ENDPOINT, encode(Prefix.WEBHOOK_ENDPOINT, endpoint.id))
        later = world.now + timedelta(seconds=5)
        died = True
        for fatal in range(STATEMENTS_MAX):
            await never_delivered(world, missed)
            view = await world.started(
                "customer.*", target=target, external_effects=Effects.ALLOW, at=later
            )
            died = await until_death(mortal_worker(world, fatal))
            seen = await world.seen(view.row.id)
            assert (await hooks.statuses())["pending"] == seen.row.armed
            await run_out(mortal_worker(world, STATEMENTS_MAX))
            assert await hooks.statuses() == {"pending": 9}
            await hooks.check_balance()
            ended = await world.seen(view.row.id)
            assert (ended.row.status, ended.published, ended.row.skipped) == ("finished", 9, 0)
            if not died:
                break
        assert not died
        assert fatal > 12


async def never_delivered(world: ReplayWorld, missed: list[UUID]) -> None:
    """Some deliveries are dead, and some were never made and are in no book."""
    await world.as_owner("DELETE FROM webhook_deliveries WHERE event_id = ANY ($1)", missed)
    await world.as_owner("UPDATE webhook_matched SET count = 0 WHERE partition < 0")
    await world.execute("UPDATE webhook_deliveries SET status = 'dead', finished_at = now()")


async def test_a_forced_replay_whose_worker_dies_anywhere_counts_each_record_once(
    databases: Databases,
) -> None:
    now = databases.clock.now().replace(microsecond=0)
    usage = await UsageWorld(databases, now).make()
    world = ReplayWorld(databases, usage.tenant_id)
    sub = await usage.served()
    died, batches = True, 0
    for fatal in range(0, STATEMENTS_MAX, 1 if LONG else 4):
        # Two that nobody has handled, and what was counted before is wrong.
        for _ in range(2):
            await usage.record({"key": f"k{batches}"})
            batches += 1
        await world.publish()
        await usage.execute("UPDATE usage_buckets SET quantity_sum = quantity_sum + 1, records = 9")
        view = await world.started(
            target=Target(TargetKind.CONSUMER, "usage"),
            mode=Mode.FORCE,
            event_ids=await of_usage(world),
            at=world.now + timedelta(seconds=5),
        )
        died = await until_death(mortal_worker(world, fatal, ReplaySettings(slice_max=2)))
        seen = await world.seen(view.row.id)
        forced = "SELECT count(*) FROM inbox_replays WHERE replay_id = $1"
        assert await world.value(forced, view.row.id) == seen.row.armed
        await run_out(mortal_worker(world, 1_000_000))
        assert await usage.buckets() == {sub.item_id: (batches, Decimal(batches))}
        assert await world.value("SELECT count(*) FROM inbox WHERE consumer = 'usage'") == batches
        ended = await world.seen(view.row.id)
        assert (ended.row.status, ended.published, ended.failed) == (
            "finished",
            view.row.matched,
            0,
        )
        if not died:
            break
    assert not died
    assert fatal > 20


async def of_usage(world: ReplayWorld) -> tuple[UUID, ...]:
    """One event of usage that was handled, if there is one, and all that were not."""
    rows = await world.fetch(
        "SELECT e.id, i.event_id IS NOT NULL AS handled FROM billing_events e"
        " LEFT JOIN inbox i ON i.consumer = 'usage' AND i.event_id = e.id"
        " WHERE e.subject = 'usage.reported' ORDER BY e.id"
    )
    handled = [row["id"] for row in rows if row["handled"]]
    return tuple(handled[:1] + [row["id"] for row in rows if not row["handled"]])


async def until_death(worker: ReplayWorker) -> bool:
    """Runs until nothing can be done; tells whether it died before."""
    try:
        await run_out(worker)
    except Died:
        return True
    return False


def mortal_worker(world: ReplayWorld, fatal: int, settings: ReplaySettings = SMALL) -> ReplayWorker:
    database = cast(Database, Mortal(world.databases.worker, fatal))
    return ReplayWorker(database, world.databases.clock, WANTED, settings)


async def test_a_replay_goes_on_after_its_worker_was_killed(world: ReplayWorld) -> None:
    ids = await world.history(*in_turn([DRAFTED], 3_000))
    view = await world.started(max_events=3_000)
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ENDLESS, world.databases.url
        )
        before = await armed(world, view)
        async with asyncio.timeout(30):
            while await armed(world, view) < before + 20:
                assert process.returncode is None
        process.send_signal(signal.SIGKILL)
        await process.wait()
    count = await armed(world, view)
    assert 60 <= count < 3_000, "it was killed on its way"
    # The server notices the death of a session a moment later; the row is free then.
    settings = ReplaySettings(queued_first=10_000)  # nobody takes what is queued
    worker = ReplayWorker(world.databases.worker, world.databases.clock, WANTED, settings)
    async with asyncio.timeout(30):
        while await armed(world, view) < 3_000:
            await worker.step()
    assert await world.take(view.row.id) == ids
    await run_out(worker)
    ended = await world.seen(view.row.id)
    assert (ended.row.status, ended.published, ended.row.skipped) == ("finished", 3_000, 3_000)


async def armed(world: ReplayWorld, view: ReplayView) -> int:
    return int(await world.value("SELECT armed FROM replays WHERE id = $1", view.row.id))
