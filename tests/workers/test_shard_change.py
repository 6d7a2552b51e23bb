"""The number of shards is changed while nothing is on its way, and every resource keeps its order across the change."""

from __future__ import annotations

from collections.abc import AsyncIterator

import nats
import pytest
from nats.js.errors import NotFoundError

from billing.services.event_feed import append
from billing.services.events import resource_hash
from billing.services.shard_change import NotDrained, change_shards
from tests.backbone import SHARDS, Backbone, Effects
from tests.workers.test_event_feed import drain
from workers.router.consumers import Consumer
from workers.router.settings import RouterSettings

MORE = 5
FEED = Consumer("feed", None, append)
EAGER = RouterSettings(retry_every_s=0)


@pytest.fixture
async def bus_url(backbone: Backbone) -> AsyncIterator[str]:
    """The streams beyond those of the other tests are deleted afterwards: the server is shared."""
    yield backbone.nats_url
    client = await nats.connect(backbone.nats_url)
    try:
        for partition in range(SHARDS, MORE):
            try:
                await client.jetstream().delete_stream(f"TOLLWAY_EVENTS_{partition}")
            except NotFoundError:
                continue
    finally:
        await client.close()


async def change(backbone: Backbone, shards: int) -> int:
    before = await change_shards(backbone.databases.worker, backbone.bus, shards)
    backbone.shards = shards
    return before


@pytest.mark.usefixtures("bus_url")
async def test_resources_move_in_order_with_what_waits_for_them_and_the_feed_goes_on(
    backbone: Backbone,
) -> None:
    resources = [backbone.resource() for _ in range(12)]
    ids = await backbone.emit(resources * 2)
    ordered = Effects("ordered", failing={ids[0]})
    consumers = [ordered.consumer(ordered=True), FEED]
    slow = RouterSettings(retry_every_s=0, attempts_max=1_000_000)
    await backbone.dispatch()
    async with backbone.router(consumers, slow) as routing:
        await routing.until(lambda: len(ordered.given) == 22)

    assert await change(backbone, MORE) == SHARDS
    [waiting] = await backbone.fetch("SELECT DISTINCT partition FROM router_waiting")
    moved = resource_hash(backbone.tenant, resources[0]) % MORE
    assert waiting["partition"] == moved

    later = await backbone.emit(resources * 2)
    await backbone.dispatch()
    assert len(await backbone.on_bus()) == MORE
    ordered.failing.clear()
    await backbone.execute("UPDATE router_waiting SET next_attempt_at = now()")
    async with backbone.router(consumers, EAGER) as routing:
        await routing.step_until(lambda: len(ordered.given) == 48)
    for place in range(12):
        own = [ids[place], ids[place + 12], later[place], later[place + 12]]
        assert [event for event in ordered.given if event in set(own)] == own
    assert sorted(await drain(backbone)) == sorted([*ids, *later])

    # And back again: the partitions that are no more keep their place in the feed.
    assert await change(backbone, SHARDS) == MORE
    last = await backbone.emit(resources)
    await backbone.dispatch()
    async with backbone.router(consumers, EAGER) as routing:
        await routing.step_until(lambda: len(ordered.given) == 60)
    assert sorted(await drain(backbone)) == sorted([*ids, *later, *last])
    kinds = await backbone.fetch("SELECT DISTINCT shard FROM leases ORDER BY shard")
    assert [row["shard"] for row in kinds] == list(range(SHARDS))


@pytest.mark.usefixtures("bus_url")
async def test_nothing_changes_while_something_is_on_its_way(backbone: Backbone) -> None:
    await backbone.emit([backbone.resource() for _ in range(3)])
    with pytest.raises(NotDrained, match="3 events wait to be published"):
        await change(backbone, MORE)
    await backbone.dispatch()
    with pytest.raises(NotDrained, match="3 messages on the bus are not routed"):
        await change(backbone, MORE)
    effects = Effects("every")
    async with backbone.router([effects.consumer()]) as routing:
        await routing.until(lambda: len(effects.given) == 3)
        with pytest.raises(NotDrained, match="1 dispatchers and routers are alive"):
            await change(backbone, MORE)
    with pytest.raises(ValueError, match="from 1 to 256"):
        await change(backbone, 257)
    assert [row["shards"] for row in await backbone.fetch("SELECT shards FROM topology")] == [
        SHARDS
    ]
    assert await change(backbone, MORE) == SHARDS
