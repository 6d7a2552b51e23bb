"""Webhook path: what changes while a request is on its way: secrets, endpoints, clocks, the database's sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
import standardwebhooks
from aiohttp import web

from billing.services import webhook_endpoints as endpoints
from billing.services import webhook_secrets
from tests.conftest import Databases
from tests.server.rim import ShiftedClock
from tests.webhook_world import VAULT, WebhookWorld, ok, send_all, status, webhook_world

OUR_SESSIONS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name LIKE 'tollway %'"
)


@pytest.fixture
async def world(databases: Databases) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(databases) as world:
        yield world


async def test_a_secret_rotated_while_a_request_is_on_its_way_signs_the_next_attempt_too(
    world: WebhookWorld,
) -> None:
    webhook = await world.endpoint("/hook")
    new: list[str] = []

    async def rotate(request: web.Request) -> web.StreamResponse:
        async with world.databases.api.transaction(world.tenant_id) as tx:
            now = world.databases.clock.now()
            secret, _ = await webhook_secrets.rotate_secret(
                tx, world.tenant_id, webhook.id, world.cause, VAULT, now=now
            )
        new.append(secret.to_text())
        return web.Response(status=503)

    world.receiver.answers["/hook"] = rotate
    await world.deliverable()
    async with world.sender() as sender:
        await send_all(sender)
        world.receiver.answers["/hook"] = ok
        await world.make_due()
        await send_all(sender)
    first, second = (
        ({name.lower(): value for name, value in headers.items()}, body)
        for path, headers, body in world.receiver.got
        if path == "/hook"
    )
    # The earlier secret verified both when they came; the new one verifies what was signed after it was made.
    assert world.receiver.verified == 2
    standardwebhooks.Webhook(new[0]).verify(second[1], second[0])
    assert first[0]["webhook-signature"].count("v1,") == 1
    assert second[0]["webhook-signature"].count("v1,") == 2


@pytest.mark.parametrize("answers", [200, 500])
async def test_an_endpoint_deleted_while_a_request_is_on_its_way_gets_no_other(
    world: WebhookWorld, answers: int
) -> None:
    webhook = await world.endpoint("/hook")

    async def delete(request: web.Request) -> web.StreamResponse:
        async with world.databases.api.transaction(world.tenant_id) as tx:
            now = world.databases.clock.now()
            await endpoints.delete_endpoint(tx, world.tenant_id, webhook.id, world.cause, now=now)
        return web.Response(status=answers)

    world.receiver.answers["/hook"] = delete
    await world.deliverable(3)
    async with world.sender() as sender:
        await send_all(sender)
    assert len(world.receiver.got) == 1
    assert await world.statuses() == {"canceled": 3}
    assert len(await world.attempts()) == 1, "the attempt that left the house is on record"
    await world.check_balance()


@pytest.mark.parametrize("hours", [-2, 2])
async def test_a_clock_that_steps_loses_nothing(world: WebhookWorld, hours: int) -> None:
    clock = ShiftedClock(world.databases.clock)
    """While it is wrong, receivers refuse the old or early timestamps; when it is right again, all arrive."""
    await world.endpoint("/hook", answer=status(503))
    ids = await world.deliverable(4)
    async with world.sender(clock=clock) as sender:
        await send_all(sender)
        clock.shift = timedelta(hours=hours)
        world.receiver.answers["/hook"] = ok
        await world.rows("UPDATE webhook_deliveries SET due_at = now() - interval '3 hours'")
        await send_all(sender)
        assert (await world.statuses())["pending"] == 4
        clock.shift = timedelta()
        ids += await world.deliverable(2)
        await world.make_due()
        sender.discover_next()
        await send_all(sender)
    assert set(world.receiver.ids("/hook")) == set(ids)
    assert await world.statuses() == {"delivered": 6}
    await world.check_balance()


async def test_a_database_that_ends_every_session_while_requests_are_on_their_way_loses_nothing(
    world: WebhookWorld,
) -> None:
    """What a restart of PostgreSQL does to its clients."""
    owner = await asyncpg.connect(world.databases.url)
    released = asyncio.Event()

    async def wait(request: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response(status=204)

    for number in range(5):
        await world.endpoint(f"/hook{number}", answer=wait)
    ids = await world.deliverable(10)
    async with world.sender() as sender:
        assert await sender.step() == 5
        for number in range(5):
            await world.receiver.arrived(f"/hook{number}")
        assert await owner.fetchval(OUR_SESSIONS)
        released.set()
        await sender.settled()
        await send_all(sender)
    await owner.close()
    assert await world.statuses() == {"delivered": 50}
    for number in range(5):
        assert sorted(world.receiver.ids(f"/hook{number}")) == sorted(ids), "none came twice"
    await world.check_balance()
