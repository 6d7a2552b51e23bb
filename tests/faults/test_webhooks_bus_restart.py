"""Webhook path behind a bus that is killed: what is fanned out goes on, and what was committed then comes later."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from billing.runtime.embedded import RunningServers
from billing.runtime.embedded.servers import Server
from tests.backbone import Backbone
from tests.webhook_world import WebhookWorld, send_all, webhook_world
from workers.router.consumers import house_consumers

EVENTS = 40


@pytest.fixture
async def world(backbone: Backbone) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(backbone.databases) as world:
        yield world


async def test_a_bus_killed_between_commit_and_post_delays_webhooks_and_loses_and_doubles_none(
    backbone: Backbone, world: WebhookWorld, servers: RunningServers
) -> None:
    await world.endpoint("/hook", "customer.*")
    consumers = [
        one for one in house_consumers(invoice_grace=timedelta()) if one.name == "webhooks"
    ]
    dispatcher, _, _ = await backbone.dispatcher()
    async with backbone.router(consumers) as routing, world.sender() as sender:
        await world.emit(EVENTS)
        while await dispatcher.step():
            pass
        async with servers.down(Server.NATS, kill=True):
            await world.emit(EVENTS)
            assert await dispatcher.step() == 0
            await routing.router.step()
            await send_all(sender)
            in_outage = len(world.receiver.ids("/hook"))
            assert await backbone.count("outbox") == EVENTS
        async with asyncio.timeout(60):
            while len(world.receiver.ids("/hook")) < 2 * EVENTS:
                await dispatcher.step()
                await routing.router.step()
                await send_all(sender)

    assert in_outage <= EVENTS
    assert set(Counter(world.receiver.ids("/hook")).values()) == {1}
    assert world.receiver.verified == 2 * EVENTS
    assert await world.statuses() == {"delivered": 2 * EVENTS}
    await world.check_balance()
