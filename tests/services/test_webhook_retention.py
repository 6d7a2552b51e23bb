"""Webhook path: old deliveries go, and the books still add up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from billing.domain.errors import Invalid
from billing.services import webhook_balance, webhook_recoveries, webhook_retention
from billing.services.webhooks import get_endpoint
from tests.conftest import Databases
from tests.webhook_world import WebhookWorld, ok, send_all, status, webhook_world


@pytest.fixture
async def world(databases: Databases) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(databases) as world:
        yield world


async def close(world: WebhookWorld, days: int, most: int = 100) -> int:
    """What a sweep that many days from now closes."""
    now = world.databases.clock.now() + timedelta(days=days)
    return await webhook_retention.close_old(world.databases.worker, now=now, most=most)


async def test_what_is_done_and_old_goes_and_the_books_still_add_up(world: WebhookWorld) -> None:
    webhook = await world.endpoint("/hook", answer=status(500))
    await world.deliverable(2)
    await world.rows("UPDATE webhook_deliveries SET attempts = 9")
    async with world.sender() as sender:
        await send_all(sender)
        world.receiver.answers["/hook"] = ok
        await world.deliverable(5)
        await send_all(sender)
    await world.deliverable(3)
    assert await close(world, days=29) == 0
    assert await close(world, days=31, most=2) == 2
    assert await close(world, days=31) == 3, "what is dead stays longer, and what waits stays"
    assert await close(world, days=91) == 2
    assert await world.statuses() == {"pending": 3}
    assert not await world.rows("SELECT 1 FROM webhook_dlq")
    assert not await world.attempts()

    async with world.databases.api.transaction(world.tenant_id, snapshot=True) as tx:
        balance = await webhook_balance.get_balance(
            tx, world.tenant_id, None, after=webhook_balance.FIRST, most=10
        )
        _, counts = await get_endpoint(tx, world.tenant_id, webhook.id)
    [row] = balance.endpoints
    assert webhook_balance.is_balanced(row)
    assert (row.matched, row.delivered, row.dead, row.pending) == (10, 5, 2, 3)
    assert (counts.matched, counts.delivered, counts.dead, counts.pending) == (10, 5, 2, 3)


async def test_missed_events_are_asked_for_only_as_far_back_as_deliveries_are_kept(
    world: WebhookWorld,
) -> None:
    webhook = await world.endpoint("/hook")
    now = world.databases.clock.now()
    wanted = webhook_recoveries.RecoveryFilter(
        webhook.id, now - timedelta(days=31), None, [], [webhook_recoveries.MISSED], 100
    )
    async with world.databases.api.transaction(world.tenant_id) as tx:
        with pytest.raises(Invalid, match="30 days"):
            await webhook_recoveries.preview(tx, world.tenant_id, wanted, now=now)
