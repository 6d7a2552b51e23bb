"""Webhook path: the sender's process is killed with SIGKILL before, during and after a POST, and before the commit.

A restart frees the leases, as `tollway up` does at its start; nothing is lost, and what is doubled was in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import pytest
from aiohttp import web

from billing.domain.backoff import WEBHOOK_ATTEMPTS_MAX
from billing.services.leases import forget_holders
from tests.conftest import LONG, Databases
from tests.faults.test_sender_faults import END_WAITING_SESSIONS
from tests.house.tree import ROOT
from tests.server.rim import until
from tests.webhook_world import WebhookWorld, hang, ok, webhook_world

ENDPOINTS, EACH = (250, 20) if LONG else (20, 4)


@pytest.fixture
async def world(databases: Databases) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(databases) as world:
        yield world


class Process:
    """A sender's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def kill(self) -> None:
        """SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


@contextlib.asynccontextmanager
async def started(world: WebhookWorld) -> AsyncIterator[Process]:
    """A sender starts as `tollway up` starts one, and is killed at the end."""
    await forget_holders(world.databases.worker)
    process = Process(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.sender_process", world.databases.url),
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
            stdin=asyncio.subprocess.PIPE,
        )
    )
    try:
        yield process
    finally:
        await process.kill()


async def settled(world: WebhookWorld) -> None:
    """Everything is delivered, and no claim is left."""

    async def all_delivered() -> bool:
        claims = await world.rows("SELECT 1 FROM webhook_claims LIMIT 1")
        return not claims and set(await world.statuses()) == {"delivered"}

    await until(all_delivered)
    await world.check_balance()


async def test_killed_after_the_claim_and_before_the_post_it_is_lost_and_posted_once(
    world: WebhookWorld,
) -> None:
    webhook = await world.endpoint("/hook")
    url = webhook.url
    # It is claimed and dialled, but nobody reads what is sent.
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    deaf = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/hook"
    await world.rows("UPDATE webhooks SET url = $1", deaf)
    [event_id] = await world.deliverable()
    async with started(world) as sender:
        await until(lambda: world.rows("SELECT 1 FROM webhook_claims"))
        await sender.kill()
    silent.close()
    assert not world.receiver.got
    await world.rows("UPDATE webhooks SET url = $1", url)
    async with started(world):
        await settled(world)
    assert world.receiver.ids("/hook") == [event_id]
    assert [a["outcome"] for a in await world.attempts()] == ["lost", "delivered"]


async def test_killed_during_the_post_it_is_posted_again_under_the_same_id(
    world: WebhookWorld,
) -> None:
    await world.endpoint("/hook", answer=hang)
    [event_id] = await world.deliverable()
    async with started(world) as sender:
        await world.receiver.arrived("/hook")
        await sender.kill()
    world.receiver.answers["/hook"] = ok
    async with started(world):
        await settled(world)
    assert world.receiver.ids("/hook") == [event_id, event_id]
    assert [a["outcome"] for a in await world.attempts()] == ["lost", "delivered"]


async def test_killed_after_the_answer_and_before_the_commit_it_is_posted_again(
    world: WebhookWorld,
) -> None:
    owner = await asyncpg.connect(world.databases.url)
    hold, locked = owner.transaction(), asyncio.Event()

    async def lock_and_answer(request: web.Request) -> web.StreamResponse:
        await hold.start()
        await owner.execute("LOCK TABLE webhook_delivery_attempts IN EXCLUSIVE MODE")
        locked.set()
        return web.Response(status=204)

    await world.endpoint("/hook", answer=lock_and_answer)
    [event_id] = await world.deliverable()
    async with started(world) as sender:
        await locked.wait()
        waits = (
            "SELECT 1 FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        await until(lambda: owner.fetch(waits))
        await sender.kill()
    # The server finds the dead client's statement waiting; it must not be carried out after all.
    await owner.execute(END_WAITING_SESSIONS)
    await hold.rollback()
    await owner.close()
    world.receiver.answers["/hook"] = ok
    async with started(world):
        await settled(world)
    assert world.receiver.ids("/hook") == [event_id, event_id]
    assert [a["outcome"] for a in await world.attempts()] == ["lost", "delivered"]


async def test_killed_after_the_commit_nothing_is_posted_again(world: WebhookWorld) -> None:
    await world.endpoint("/hook")
    [event_id] = await world.deliverable()
    async with started(world) as sender:
        await settled(world)
        await sender.kill()
    async with started(world):
        [second] = await world.deliverable()
        await settled(world)
    assert world.receiver.ids("/hook") == [event_id, second]


async def test_killed_with_many_in_flight_none_is_lost_and_only_those_are_doubled(
    world: WebhookWorld,
) -> None:
    """The receiver takes a few answers in, so that the endpoints' room grows, and then leaves all waiting."""
    released = asyncio.Event()
    open_now: set[str] = set()

    async def answer(request: web.Request) -> web.StreamResponse:
        if len(world.receiver.got) > warm:
            open_now.add(request.headers["webhook-id"] + request.path)
            await released.wait()
        return web.Response(status=204)

    paths = [f"/hook{number}" for number in range(ENDPOINTS)]
    warm = ENDPOINTS * 2
    for path in paths:
        await world.endpoint(path, answer=answer)
    await world.deliverable(2)
    async with started(world) as sender:
        await settled(world)
        ids = await world.deliverable(EACH)
        wanted = ENDPOINTS * 2

        async def enough() -> bool:
            return len(open_now) >= wanted

        await until(enough)
        await sender.kill()
    in_flight = set(open_now)
    released.set()
    async with started(world):
        await settled(world)
    arrivals = Counter(headers["webhook-id"] + path for path, headers, _ in world.receiver.got)
    assert sum(1 for path in paths for i in ids if not arrivals[i + path]) == 0
    doubled = {name for name, count in arrivals.items() if count > 1}
    assert doubled <= in_flight
    assert await world.statuses() == {"delivered": ENDPOINTS * (EACH + 2)}
    numbers = await world.rows("SELECT max(attempts) AS most FROM webhook_deliveries")
    assert numbers[0]["most"] == 2 < WEBHOOK_ATTEMPTS_MAX
