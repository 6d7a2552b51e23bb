"""Usage path, step 2: revised records leave one bucket and come into another, and mark both periods."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.services.actor import Cause
from billing.services.incoming import Incoming
from billing.services.reconciliation import unreconciled_buckets
from billing.services.usage_amendments import Amendment, amend_usage, void_usage
from billing.services.usage_assignment import assign_unassigned
from billing.services.usage_checks import instant_us
from billing.services.usage_revisions import Author
from tests.conftest import LONG, Databases
from tests.services.usage_world import World, make_world

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
PARTITIONS = 3


@pytest.fixture
async def world(databases: Databases) -> World:
    return await make_world(databases)


def author(world: World) -> Author:
    return Author(Cause("key_test", world.new()), allow_backfill=True)


async def amend(world: World, key: str, **fields: Any) -> None:
    at = fields.pop("at", None)
    changed = set(fields) | ({"timestamp"} if at else set())
    amendment = Amendment(changed, used_at_us=instant_us(at) if at else None, **fields)
    async with world.databases.api.transaction(world.tenant_id) as tx:
        await amend_usage(tx, world.tenant_id, key, amendment, author(world), now=world.now)


async def void(world: World, key: str) -> None:
    async with world.databases.api.transaction(world.tenant_id) as tx:
        await void_usage(tx, world.tenant_id, key, author(world), now=world.now)


async def unreconciled(world: World) -> int:
    async with world.worker.transaction() as tx:
        return await unreconciled_buckets(tx, world.tenant_id)


async def mine(world: World) -> list[Incoming]:
    return [event for event in await world.reported() if event.tenant_id == world.tenant_id]


async def fold_until_done(world: World) -> None:
    """All events in order, those that wait again and again; each round folds one revision of each record."""
    waiting = await mine(world)
    for _ in range(len(waiting) + 1):
        left = await world.fold(waiting)
        waiting = [event for event in waiting if event.event_id in left]
        if not waiting:
            return
    pytest.fail("events wait for ever")


async def periods_of(world: World) -> dict[datetime, tuple[int, Decimal, Decimal]]:
    """Records, sum and maximum by period, of buckets that have records."""
    rows = await world.rows(
        "SELECT period_start, sum(records)::int AS n, sum(quantity_sum) AS total, max(quantity_max) AS highest"
        " FROM usage_buckets WHERE tenant_id = $1 AND records > 0 GROUP BY period_start",
        world.tenant_id,
    )
    return {row["period_start"]: (row["n"], row["total"], row["highest"]) for row in rows}


async def marks(world: World) -> Counter[tuple[str, datetime]]:
    rows = await world.rows(
        "SELECT kind, period_start FROM usage_period_marks WHERE tenant_id = $1", world.tenant_id
    )
    return Counter((row["kind"], row["period_start"]) for row in rows)


async def test_an_amended_quantity_takes_the_place_of_the_earlier_one(world: World) -> None:
    await world.served()
    start = world.now - 10 * DAY
    await world.record({"key": "a", "quantity": "9"}, {"key": "b", "quantity": "2"})
    await world.fold()
    await amend(world, "a", quantity="4")
    assert await periods_of(world) == {start: (2, Decimal(11), Decimal(9))}
    await fold_until_done(world)
    assert await periods_of(world) == {start: (2, Decimal(6), Decimal(4))}
    assert await unreconciled(world) == 0
    assert (await marks(world))["due", start] == 2


async def test_an_amended_timestamp_moves_a_record_and_marks_both_periods(world: World) -> None:
    await world.served()
    old, new = world.now - 40 * DAY, world.now - 10 * DAY
    await world.record({"key": "a", "quantity": "9"}, {"key": "b", "quantity": "2"})
    await world.fold()
    await world.execute("UPDATE usage_periods SET status = 'billed'")
    await amend(world, "a", at=world.now - 20 * DAY)
    await fold_until_done(world)
    assert await periods_of(world) == {
        old: (1, Decimal(9), Decimal(9)),
        new: (1, Decimal(2), Decimal(2)),
    }
    assert await unreconciled(world) == 0
    assert await marks(world) == {("due", new): 1, ("adjust", new): 1, ("adjust", old): 1}


async def test_a_voided_record_leaves_its_bucket_and_marks_its_period(world: World) -> None:
    await world.served()
    start = world.now - 10 * DAY
    await world.record({"key": "a", "quantity": "9"})
    await world.fold()
    await world.execute("UPDATE usage_periods SET status = 'billed'")
    await void(world, "a")
    await fold_until_done(world)
    assert await periods_of(world) == {}
    assert (await marks(world))["adjust", start] == 1
    await world.record({"key": "b", "quantity": "0.5"})
    await fold_until_done(world)
    assert await periods_of(world) == {start: (1, Decimal("0.5"), Decimal("0.5"))}
    assert await unreconciled(world) == 0


async def test_a_revision_waits_for_the_one_before_it(world: World) -> None:
    """Otherwise a period that the earlier one comes into behind it would never hear that it has to give it back."""
    await world.served()
    await world.record({"key": "a", "quantity": "9"})
    await amend(world, "a", quantity="4")
    await amend(world, "a", quantity="5")
    first, second, third = await mine(world)
    assert await world.fold([third, second]) == {second.event_id, third.event_id}
    assert await world.fold([first, second, third]) == {second.event_id, third.event_id}
    assert await world.fold([third, second]) == {third.event_id}
    assert await world.fold([third]) == set()
    assert await periods_of(world) == {world.now - 10 * DAY: (1, Decimal(5), Decimal(5))}


async def test_a_revision_waits_while_its_earlier_period_is_taken(world: World) -> None:
    sub = await world.served()
    await world.record({"key": "a", "quantity": "9"})
    await world.fold()
    await amend(world, "a", at=world.now - 20 * DAY)
    async with world.worker.transaction() as finalizer:
        await finalizer.execute(
            "SELECT FROM usage_periods WHERE item_id = $1 AND period_start = $2 FOR NO KEY UPDATE",
            sub.item_id,
            world.now - 10 * DAY,
        )
        assert len(await world.fold()) == 1
    assert await periods_of(world) == {world.now - 10 * DAY: (1, Decimal(9), Decimal(9))}
    await fold_until_done(world)
    assert await periods_of(world) == {world.now - 40 * DAY: (1, Decimal(9), Decimal(9))}


async def test_a_delta_of_a_level_marks_every_later_period(world: World) -> None:
    await world.meter("seats", "weighted_sum")
    sub = await world.subscribe("UA", world.now - 30 * DAY, meter="seats")
    starts = [world.now - n * 10 * DAY for n in (3, 2, 1)]
    for n, start in enumerate(starts):
        await world.period(sub, start, start + 10 * DAY, status="reported" if n else "billed")
    await world.execute(
        "UPDATE usage_periods SET status = 'billed' WHERE period_start = $1", starts[1]
    )
    await world.record({"key": "a", "meter": "seats", "at": world.now - 15 * DAY})
    async with world.worker.transaction() as finalizer:
        await finalizer.execute(
            "SELECT FROM usage_periods WHERE period_start = $1 FOR NO KEY UPDATE", starts[2]
        )
        assert len(await world.fold()) == 1
    await fold_until_done(world)
    assert await marks(world) == {("adjust", starts[1]): 1, ("due", starts[2]): 1}
    await amend(world, "a", at=world.now - 25 * DAY)
    await fold_until_done(world)
    assert (await marks(world))["adjust", starts[0]] == 1


async def test_unassigned_usage_goes_to_the_subscription_that_comes_to_cover_it(
    world: World,
) -> None:
    await world.record(
        {"key": "covered", "quantity": "3", "at": world.now - DAY},
        {"key": "before", "at": world.now - 3 * DAY},
        {"key": "voided", "at": world.now - DAY},
    )
    await world.fold()
    await void(world, "voided")
    await fold_until_done(world)
    sub = await world.subscribe("UA", world.now - 2 * DAY)
    await world.period(sub, world.now - 2 * DAY, world.now + DAY)
    async with world.worker.transaction() as tx:
        counts = [
            await assign_unassigned(tx, world.tenant_id, sub.id, author(world), now=world.now)
            for _ in range(2)
        ]
    assert counts == [1, 0]
    await fold_until_done(world)
    assert await periods_of(world) == {world.now - 2 * DAY: (1, Decimal(3), Decimal(3))}
    assert await unreconciled(world) == 0


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a tenant does: `kind` is record, amend or void; the numbers choose what of."""

    kind: str
    record: int
    quantity: int
    hours: int


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(["record", "record", "amend", "amend", "void"]),
        st.integers(0, 5),
        st.integers(0, 9),
        # Two periods, a boundary between them, and time that nothing covers.
        st.sampled_from([1, 2, 239, 241, 242, 900, 1000]),
    ),
    min_size=1,
    max_size=14,
)


@settings(
    max_examples=100 if LONG else 8,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=steps, seed=st.integers(0, 1_000_000))
async def test_folds_twice_shuffled_and_from_three_partitions_give_the_same_buckets(
    databases: Databases, steps: list[Step], seed: int
) -> None:
    world = await make_world(databases)
    await world.served()
    expected = await _take(world, steps)
    await _fold_in_disorder(world, random.Random(seed))
    assert await unreconciled(world) == 0
    assert await periods_of(world) == _periods(world, expected)
    touched = await world.rows(
        "SELECT DISTINCT period_start FROM usage_records WHERE tenant_id = $1 AND item_id IS NOT NULL",
        world.tenant_id,
    )
    assert {start for _, start in await marks(world)} == {row["period_start"] for row in touched}


async def _take(world: World, steps: list[Step]) -> Mapping[str, tuple[Decimal, datetime]]:
    """Does the steps; answers what each record says in the end."""
    says: dict[str, tuple[Decimal, datetime]] = {}
    gone: set[str] = set()
    for step in steps:
        key = f"r{step.record}"
        at = world.now - step.hours * HOUR
        if key not in says and key not in gone:
            await world.record(
                {"key": key, "quantity": str(step.quantity), "at": at}, allow_backfill=True
            )
        elif key in gone:
            continue
        elif step.kind == "void":
            await void(world, key)
            gone.add(key)
            del says[key]
            continue
        else:
            await amend(world, key, quantity=str(step.quantity), at=at)
        says[key] = (Decimal(step.quantity), at)
    return says


async def _fold_in_disorder(world: World, rng: random.Random) -> None:
    """Every event twice, shuffled, by three folds at once that know nothing of each other."""
    events = (await mine(world)) * 2
    rng.shuffle(events)
    parts = [events[n::PARTITIONS] for n in range(PARTITIONS)]

    async def fold_part(waiting: list[Incoming]) -> None:
        for _ in range(200):
            some = waiting[: rng.randint(1, 4)]
            left = await world.fold(some)
            waiting = waiting[len(some) :] + [one for one in some if one.event_id in left]
            if not waiting:
                return
        pytest.fail("events wait for ever")

    await asyncio.gather(*map(fold_part, parts))


def _periods(
    world: World, says: Mapping[str, tuple[Decimal, datetime]]
) -> dict[datetime, tuple[int, Decimal, Decimal]]:
    groups: dict[datetime, list[Decimal]] = {}
    bounds = (world.now - 40 * DAY, world.now - 10 * DAY, world.now + 30 * DAY)
    for quantity, at in says.values():
        for start, end in itertools.pairwise(bounds):
            if start <= at < end:
                groups.setdefault(start, []).append(quantity)
    return {start: (len(some), sum(some, Decimal()), max(some)) for start, some in groups.items()}
