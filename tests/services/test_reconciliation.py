"""The buckets are compared with the records slice by slice, and what differs stands until it agrees."""

from __future__ import annotations

from datetime import timedelta

import pytest

from billing.services.reconciliation import reconcile_slice, reconciliation
from tests.conftest import Databases
from tests.services.usage_world import World, make_world


@pytest.fixture
async def world(databases: Databases) -> World:
    """Five customers with two usage periods each, and a record in each."""
    world = await make_world(databases)
    for n in range(5):
        await world.customer(f"C{n}")
        await world.served(f"C{n}")
        for days in (1, 20):
            at = world.now - timedelta(days=days)
            await world.record({"key": f"{n}-{days}", "customer": f"C{n}", "at": at})
    assert await world.fold() == set()
    return world


async def round_of(world: World, *, periods_max: int = 500) -> list[int]:
    """The sizes of the slices of one round."""
    sizes = []
    while True:
        before = await finished(world)
        async with world.worker.transaction() as tx:
            sizes.append(
                await reconcile_slice(tx, now=world.databases.clock.now(), periods_max=periods_max)
            )
        if await finished(world) != before:
            return sizes


async def finished(world: World) -> object:
    async with world.worker.connection() as connection:
        return (await reconciliation(connection)).finished_at


async def differing(world: World) -> int:
    """As the tenant sees it, and as a worker does."""
    async with world.worker.connection() as connection:
        whole = (await reconciliation(connection)).differing
    async with world.databases.api.transaction(world.tenant_id) as tx:
        assert (await reconciliation(tx)).differing == whole
    return whole


async def test_a_round_compares_every_usage_period_once_in_slices(world: World) -> None:
    assert await finished(world) is None
    assert await round_of(world, periods_max=4) == [4, 4, 2]
    assert await round_of(world) == [10]
    assert await differing(world) == 0


async def test_what_differs_is_found_and_forgotten_when_it_agrees(world: World) -> None:
    spoilt = await world.rows(
        "UPDATE usage_buckets SET quantity_sum = quantity_sum + 1"
        " WHERE (item_id, hour) IN (SELECT item_id, hour FROM usage_buckets ORDER BY item_id LIMIT 2)"
        " RETURNING 1"
    )
    await world.execute(
        "DELETE FROM usage_buckets WHERE ctid = (SELECT ctid FROM usage_buckets ORDER BY item_id DESC LIMIT 1)"
    )
    await round_of(world, periods_max=3)
    assert await differing(world) == len(spoilt) + 1
    await world.execute("UPDATE usage_buckets SET quantity_sum = 1 WHERE true")
    await round_of(world, periods_max=3)
    assert await differing(world) == 1


async def test_only_one_process_has_the_walk_in_hand(world: World) -> None:
    async with world.worker.transaction() as mine, world.worker.transaction() as other:
        assert await reconcile_slice(mine, now=world.now) == 10
        assert await reconcile_slice(other, now=world.now) == 0


async def test_another_tenant_does_not_see_the_difference(world: World) -> None:
    await world.execute("UPDATE usage_buckets SET quantity_max = 9 WHERE true")
    await round_of(world)
    async with world.databases.api.transaction(world.new()) as tx:
        assert (await reconciliation(tx)).differing == 0
