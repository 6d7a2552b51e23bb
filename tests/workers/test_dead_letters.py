"""Operators: what was given up is tried again or given up for good, and what waited behind it goes on."""

from __future__ import annotations

from uuid import UUID

import pytest

from billing.domain.backoff import ExponentialBackoff
from billing.services import dead_letters
from billing.services.dead_letters import DeadLetterNotFound
from tests.backbone import Backbone, Effects
from workers.router.settings import RouterSettings

AT_ONCE = ExponentialBackoff(base_ms=1, cap_ms=1)
EAGER = RouterSettings(retry_every_s=0, failed_backoff=AT_ONCE, attempts_max=2)
WANTED = {"ordered": None}


async def settle(backbone: Backbone, order: str) -> UUID:
    """Redrives or discards the only dead letter."""
    worker, now = backbone.databases.worker, backbone.now
    async with worker.transaction() as tx:
        [dead] = await dead_letters.list_dead(tx, None, before=None, limit=10)
        if order == "redrive":
            await dead_letters.redrive(tx, dead.id, None, now=now)
        else:
            await dead_letters.discard(tx, dead.id, None, WANTED)
    async with worker.transaction() as tx:
        with pytest.raises(DeadLetterNotFound):
            await dead_letters.redrive(tx, dead.id, None, now=now)
    return dead.event_id


@pytest.mark.parametrize("order", ["redrive", "discard"])
async def test_behind_a_dead_event_that_is_settled_its_followers_go_on_in_order(
    backbone: Backbone, order: str
) -> None:
    ids = await backbone.emit([backbone.resource()] * 4)
    await backbone.dispatch()
    effects = Effects("ordered", failing={ids[0]})
    async with backbone.router([effects.consumer(ordered=True)], EAGER) as routing:
        dead = routing.metrics.dead_letters.labels("ordered")
        await routing.until(lambda: routing.metrics.routed._value.get() == 4)
        await routing.step_until(lambda: dead._value.get() == 1)
        effects.failing.clear()
        assert await settle(backbone, order) == ids[0]
        await routing.step_until(lambda: ids[3] in effects.given)

    assert effects.given == (ids if order == "redrive" else ids[1:])
    assert await backbone.count("router_waiting") == 0
    assert await backbone.count("router_dead_letters") == 0
    assert await backbone.count("inbox") == 4


@pytest.mark.parametrize("order", ["redrive", "discard"])
async def test_behind_an_event_that_could_not_be_published_its_resource_goes_on(
    backbone: Backbone, order: str
) -> None:
    resource = backbone.resource()
    [first] = await backbone.emit([resource])
    await backbone.execute(
        "WITH gone AS (DELETE FROM outbox RETURNING *) INSERT INTO outbox_dead_letters (event_id,"
        " purpose, tenant_id, shard, priority, position, subject, resource, attempts, last_error,"
        " died_at) SELECT event_id, purpose, tenant_id, shard, priority, position, subject,"
        " resource, 5, 'refused', now() FROM gone"
    )
    [second] = await backbone.emit([resource])
    await backbone.dispatch()
    assert [len(held) for held in await backbone.on_bus()] == [0, 0]

    await settle(backbone, order)
    await backbone.dispatch()
    effects = Effects("ordered")
    async with backbone.router([effects.consumer(ordered=True)], EAGER) as routing:
        await routing.until(lambda: second in effects.given)

    assert effects.given == ([first, second] if order == "redrive" else [second])
    assert await backbone.count("outbox_dead_letters") == 0
    assert await backbone.count("inbox") == 2
