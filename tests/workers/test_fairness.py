"""Publish path to the router: one tenant's backlog delays another's event by a batch and the window, and no more."""

from __future__ import annotations

from uuid import UUID

import pytest

from billing.runtime.ids import new_id
from billing.services.outbox import NOBODY, Claim, Priority, read_pending
from tests.backbone import SHARDS, Backbone, Effects
from tests.conftest import LONG
from workers.dispatcher.settings import DispatcherSettings
from workers.router.arrivals import read_incoming
from workers.router.settings import RouterSettings

BACKLOG = 20_000 if LONG else 2_000
BATCH, AHEAD = 50, 100
SMALL = DispatcherSettings(shared_rows_max=5, batch_rows_max=BATCH, publish_ahead=AHEAD)


async def backlog(backbone: Backbone, count: int) -> list[UUID]:
    resources = [backbone.resource() for _ in range(100)]
    ids = []
    for start in range(0, count, 500):
        ids += await backbone.emit([resources[n % 100] for n in range(start, start + 500)])
    return ids


@pytest.mark.parametrize("heavy_tenants", [1, 3])
async def test_a_backlog_delays_another_tenants_event_by_a_batch_and_the_window_to_its_effect(
    backbone: Backbone, heavy_tenants: int
) -> None:
    for _ in range(heavy_tenants):
        backbone.tenant = new_id(backbone.now)
        await backlog(backbone, BACKLOG // heavy_tenants // 500 * 500 or 500)
    dispatcher, _, _ = await backbone.dispatcher(SMALL)
    effects = Effects("every")
    settings = RouterSettings(cycle_events_max=20, shared_events_max=20, retry_every_s=0)
    async with backbone.router([effects.consumer()], settings) as routing:
        # Everything is at work: streams are filled up to the window, and the router has begun.
        for _ in range(20):
            await dispatcher.step()
        await routing.until(lambda: len(effects.given) >= 60)
        for _ in range(10):
            await dispatcher.step()

        backbone.tenant = new_id(backbone.now)
        [single] = await backbone.emit([backbone.resource()])
        [row] = await backbone.fetch("SELECT shard FROM outbox WHERE event_id = $1", single)
        before = set(effects.given)
        while single not in effects.given:
            await dispatcher.step()
            await routing.router.step()
    assert await backbone.count("outbox") > BATCH, "the backlog was over before the event came"

    passed = set(effects.given[: effects.given.index(single)]) - before
    held = (await backbone.on_bus())[row["shard"]]
    of_shard = {read_incoming(message.body, row["shard"]).event_id for message in held}
    assert len(passed & of_shard) <= BATCH + AHEAD


async def test_no_more_than_the_window_is_unrouted_while_a_router_is_at_work(
    backbone: Backbone,
) -> None:
    await backlog(backbone, 1000)
    dispatcher, _, _ = await backbone.dispatcher(SMALL)
    effects = Effects("every")
    async with backbone.router([effects.consumer()]) as routing:
        # The router holds its leases and does nothing yet.
        for _ in range(100):
            await dispatcher.step()
        assert [len(held) for held in await backbone.on_bus()] == [AHEAD] * SHARDS
        assert await backbone.count("outbox") == 1000 - AHEAD * SHARDS
        while len(effects.given) < 1000:
            await dispatcher.step()
            await routing.router.step()
    assert await backbone.count("outbox") == 0


async def test_without_a_router_at_work_there_is_no_window(backbone: Backbone) -> None:
    await backlog(backbone, 1000)
    dispatcher, _, _ = await backbone.dispatcher(SMALL)
    while await dispatcher.step():
        pass
    assert sum(len(held) for held in await backbone.on_bus()) == 1000


async def test_tenants_take_turns_and_whoever_was_left_out_is_next(backbone: Backbone) -> None:
    tenants = sorted(new_id(backbone.now) for _ in range(3))
    for tenant in tenants:
        backbone.tenant = tenant
        await backbone.emit([backbone.resource() for _ in range(40)])
    await backbone.execute("UPDATE outbox SET shard = 0")

    async def read(claim: Claim) -> list[tuple[UUID, int]]:
        rows = await read_pending(
            backbone.databases.worker, [claim], in_flight=[], now=backbone.now
        )
        counts: dict[UUID, int] = {}
        for row in rows:
            counts[row.tenant_id] = counts.get(row.tenant_id, 0) + 1
        for tenant in counts:
            positions = [row.position for row in rows if row.tenant_id == tenant]
            assert positions == sorted(positions)
        return list(counts.items())

    first, second, third = tenants
    assert await read(Claim(0, Priority.LIVE, 30, 10, NOBODY)) == [
        (first, 10),
        (second, 10),
        (third, 10),
    ]
    assert await read(Claim(0, Priority.LIVE, 30, 30, first)) == [(second, 30)]
    assert await read(Claim(0, Priority.LIVE, 60, 40, second)) == [(third, 40), (first, 20)]
    assert await read(Claim(0, Priority.LIVE, 200, 200, third)) == [
        (first, 40),
        (second, 40),
        (third, 40),
    ]
