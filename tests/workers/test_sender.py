"""Webhook path, step 2: what is due is posted, verified by the published libraries, recorded, and tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from billing.domain.backoff import WEBHOOK_ATTEMPTS_MAX
from billing.domain.ids import Prefix, encode
from tests.conftest import Databases
from tests.webhook_world import WebhookWorld, send_all, status, webhook_world
from workers.webhooks.settings import SenderSettings


@pytest.fixture
async def world(databases: Databases) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(databases) as world:
        yield world


async def test_an_event_is_posted_once_signed_and_recorded(world: WebhookWorld) -> None:
    webhook = await world.endpoint("/hook", "customer.*")
    [event_id] = await world.deliverable()
    async with world.sender() as sender:
        assert await send_all(sender) == 1
    assert world.receiver.ids("/hook") == [event_id]
    assert world.receiver.verified == 1
    _, headers, _ = world.receiver.got[0]
    assert headers["Content-Type"] == "application/json"
    assert headers["User-Agent"] == "tollway/test"
    [body] = world.receiver.bodies("/hook")
    assert body["type"] == "customer.created"
    assert body["id"] == event_id
    assert body["tenant_id"] == encode(Prefix.TENANT, world.tenant_id)
    assert body["data"] == {"customer_id": "cus_x", "external_id": ""}
    assert body["resource_version"] == "1"
    [attempt] = await world.attempts()
    assert (attempt["attempt_number"], attempt["outcome"]) == (1, "delivered")
    assert (attempt["response_status"], attempt["address"]) == (204, "127.0.0.1")
    [row] = await world.rows("SELECT * FROM webhook_deliveries")
    assert (row["status"], row["webhook_id"]) == ("delivered", webhook.id)
    assert row["finished_at"] is not None
    assert not await world.rows("SELECT 1 FROM webhook_claims")
    await world.check_balance()


async def test_a_refused_delivery_is_tried_again_under_the_same_id_until_it_is_taken(
    world: WebhookWorld,
) -> None:
    await world.endpoint("/hook", answer=status(503))
    [event_id] = await world.deliverable()
    async with world.sender() as sender:
        assert await send_all(sender) == 1
        [row] = await world.rows("SELECT * FROM webhook_deliveries")
        assert (row["status"], row["attempts"]) == ("pending", 1)
        world.receiver.answers["/hook"] = status(200)
        await world.make_due()
        assert await send_all(sender) == 1
    assert world.receiver.ids("/hook") == [event_id, event_id]
    assert world.receiver.verified == 2
    assert [(a["outcome"], a["error"]) for a in await world.attempts()] == [
        ("refused", "status: 503"),
        ("delivered", ""),
    ]
    assert await world.statuses() == {"delivered": 1}


async def test_after_the_last_attempt_a_delivery_is_dead_and_stands_in_the_dead_letters(
    world: WebhookWorld,
) -> None:
    await world.endpoint("/hook", answer=status(500))
    await world.deliverable()
    async with world.sender() as sender:
        for _ in range(WEBHOOK_ATTEMPTS_MAX):
            assert await send_all(sender) == 1
            await world.make_due()
        assert await send_all(sender) == 0
    assert len(world.receiver.got) == len(await world.attempts()) == WEBHOOK_ATTEMPTS_MAX
    assert await world.statuses() == {"dead": 1}
    [dead] = await world.rows("SELECT * FROM webhook_dlq")
    assert (dead["attempts"], dead["last_error"]) == (WEBHOOK_ATTEMPTS_MAX, "status: 500")
    await world.check_balance()


async def test_a_receiver_that_asks_for_time_gets_it(world: WebhookWorld) -> None:
    await world.endpoint("/hook", answer=status(429, **{"Retry-After": "3600"}))
    await world.deliverable()
    async with world.sender() as sender:
        await send_all(sender)
    [row] = await world.rows(
        "SELECT due_at - now() > interval '59 minutes' AS later FROM webhook_deliveries"
    )
    assert row["later"]


async def test_two_senders_at_once_deliver_each_event_once(world: WebhookWorld) -> None:
    paths = [f"/hook{n}" for n in range(8)]
    for path in paths:
        await world.endpoint(path)
    ids = await world.deliverable(40)
    async with world.sender() as one, world.sender() as other:
        for _ in range(2):  # the first gives up half of its shards, the second takes them
            for keeper in world.keepers:
                await keeper.step()
        assert all(len(keeper.usable()) == 8 for keeper in world.keepers)
        sent = await asyncio.gather(send_all(one), send_all(other))
    assert all(sent)
    for path in paths:
        assert sorted(world.receiver.ids(path)) == sorted(ids)
    assert await world.statuses() == {"delivered": 8 * 40}
    await world.check_balance()


async def test_a_hint_soon_after_a_look_wakes_the_loop_when_the_next_look_may_be(
    world: WebhookWorld,
) -> None:
    await world.endpoint("/hook", "customer.*")
    async with world.sender(SenderSettings(look_pause_s=0.2)) as sender:
        await sender.step()
        await sender.step()  # a look
        await world.deliverable()
        world.wake.clear()
        assert await sender.step() == 0
        await asyncio.wait_for(world.wake.wait(), 5)
        assert await sender.step() == 1
        await sender.settled()
    assert len(world.receiver.ids("/hook")) == 1
