"""Webhook path, step 2: what a receiver's answer means for its whole endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from tollway.event.v1 import event_pb2
from tollway.webhook.v1 import webhook_events_pb2

from billing.services import webhook_endpoints as endpoints
from tests.conftest import Databases
from tests.webhook_world import LOOPBACK, WebhookWorld, send_all, status, webhook_world
from workers.webhooks.settings import SenderSettings


@pytest.fixture
async def world(databases: Databases) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(databases) as world:
        yield world


async def test_an_endpoint_that_is_gone_is_disabled_once_and_keeps_its_deliveries(
    world: WebhookWorld,
) -> None:
    webhook = await world.endpoint("/gone", answer=status(410))
    await world.endpoint("/other")
    await world.deliverable(5)
    async with world.sender() as sender:
        await send_all(sender)
    [row] = await world.rows(
        "SELECT status, disabled_reason FROM webhooks WHERE id = $1", webhook.id
    )
    assert (row["status"], row["disabled_reason"]) == ("disabled", "gone")
    assert await world.statuses() == {"parked": 5, "delivered": 5}
    [told] = await world.rows(
        "SELECT envelope FROM billing_events WHERE subject = 'webhook.endpoint.disabled'"
    )
    payload = webhook_events_pb2.WebhookEndpointDisabled()
    event = event_pb2.Event.FromString(told["envelope"])
    assert event.data.Unpack(payload)
    assert (payload.reason, event.actor) == ("gone", "worker:sender")
    await world.check_balance()


async def test_an_answer_from_a_url_that_was_changed_meanwhile_disables_nobody(
    world: WebhookWorld,
) -> None:
    webhook = await world.endpoint("/gone")

    async def moves(request: web.Request) -> web.StreamResponse:
        change = endpoints.EndpointChange(url=world.receiver.url("/new"), allowed=LOOPBACK)
        async with world.databases.api.transaction(world.tenant_id) as tx:
            now = world.databases.clock.now()
            await endpoints.update_endpoint(
                tx, world.tenant_id, webhook.id, change, world.cause, now=now
            )
        return web.Response(status=410)

    world.receiver.answers["/gone"] = moves
    await world.deliverable()
    async with world.sender() as sender:
        await send_all(sender)
        await world.make_due()
        await send_all(sender)
    assert len(world.receiver.ids("/new")) == 1
    assert await world.statuses() == {"delivered": 1}


@pytest.mark.parametrize(
    ("code", "headers"), [(429, {}), (429, {"Retry-After": "60"}), (503, {"Retry-After": "60"})]
)
async def test_a_receiver_that_asks_for_time_is_left_alone_with_everything(
    world: WebhookWorld, code: int, headers: dict[str, str]
) -> None:
    await world.endpoint("/busy", answer=status(code, **headers))
    await world.endpoint("/other")
    await world.deliverable(1)
    async with world.sender() as sender:
        await send_all(sender)
        await world.deliverable(20)
        await send_all(sender)
        assert (len(world.receiver.ids("/busy")), len(world.receiver.ids("/other"))) == (1, 21)
    attempts = await world.rows("SELECT sum(attempts) AS n FROM webhook_deliveries")
    assert attempts[0]["n"] == 22


async def test_when_the_time_is_over_the_deliveries_go_on(world: WebhookWorld) -> None:
    await world.endpoint("/busy", answer=status(429))
    await world.deliverable(1)
    async with world.sender(SenderSettings(hold_s=0.001)) as sender:
        await send_all(sender)
        world.receiver.answers["/busy"] = status(200)
        await world.deliverable(20)
        while len(world.receiver.ids("/busy")) < 21:
            await send_all(sender)
    assert len(world.receiver.ids("/busy")) == 21
