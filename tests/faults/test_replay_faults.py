"""Replay path: die at every statement, and by kill -9; what goes on afterwards repeats nothing and skips nothing."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID

import pytest

from billing.runtime.db import Connection, Database
from billing.services.consumers import WANTED
from billing.services.replays import ReplayView, StartOrder, start_replay
from tests.conftest import Databases
from tests.replay_world import (
    ACTOR,
    DRAFTED,
    METHOD,
    REPORTED,
    ReplayWorld,
    in_turn,
    make_world,
)
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
    worker = ReplayWorker(database, DatabaseClock(), WANTED, ReplaySettings(slice_max=1, queued_max=10_000))
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
                await start_replay(tx, confirmed, StartOrder(cause, METHOD, "why"), now=world.now)
            break
        except Died:
            for table in ("replays", "audit_log", "outbox"):
                assert await world.value(f"SELECT count(*) FROM {table}") == 0
            assert await world.value("SELECT count(*) FROM billing_events") == log
    assert fatal > 4
    assert [row["actor"] for row in await world.fetch("SELECT actor FROM audit_log")] == [ACTOR]


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


async def until_death(worker: ReplayWorker) -> bool:
    """Runs until nothing can be done; tells whether it died before."""
    try:
        await run_out(worker)
    except Died:
        return True
    return False


def mortal_worker(world: ReplayWorld, fatal: int) -> ReplayWorker:
    database = cast(Database, Mortal(world.databases.worker, fatal))
    return ReplayWorker(database, world.databases.clock, WANTED, SMALL)


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
    worker = ReplayWorker(world.databases.worker, world.databases.clock, WANTED)
    async with asyncio.timeout(30):
        while await armed(world, view) < 3_000:
            await worker.step()
    assert await world.take(view.row.id) == ids
    await run_out(worker)
    ended = await world.seen(view.row.id)
    assert (ended.row.status, ended.published, ended.row.skipped) == ("finished", 3_000, 3_000)


async def armed(world: ReplayWorld, view: ReplayView) -> int:
    return int(await world.value("SELECT armed FROM replays WHERE id = $1", view.row.id))
