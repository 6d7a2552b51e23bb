"""Usage path, step 2: each record finds its owner, is counted once, and waits for whoever holds its period."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from billing.services.quantities import PeriodKey
from billing.services.reconciliation import unreconciled_buckets
from billing.services.usage_fold import fold
from tests.conftest import Databases
from tests.services.usage_world import Sub, World, make_world, recorded_quantities

DAY = timedelta(days=1)


@pytest.fixture
async def world(databases: Databases) -> World:
    return await make_world(databases)


async def marks(world: World) -> list[tuple[str, Any]]:
    rows = await world.rows("SELECT kind, period_start FROM usage_period_marks ORDER BY id")
    return [(row["kind"], row["period_start"]) for row in rows]


async def owner_of(world: World, key: str) -> tuple[bool, Any, Any]:
    (row,) = await world.rows("SELECT * FROM usage_records WHERE idempotency_key = $1", key)
    return row["folded"], row["item_id"], row["period_start"]


async def unreconciled(world: World) -> int:
    async with world.worker.transaction() as tx:
        whole = await unreconciled_buckets(tx, None)
        assert whole == await unreconciled_buckets(tx, world.tenant_id)
    return whole


async def quantity(world: World, sub: Sub, start: Any) -> Fraction:
    key = PeriodKey(world.tenant_id, sub.item_id, start)
    async with world.worker.transaction() as tx:
        return (await recorded_quantities(tx, [key]))[key]


async def test_records_go_to_the_period_of_their_own_timestamp(world: World) -> None:
    sub = await world.served()
    boundary = world.now - 10 * DAY
    await world.record(
        {"key": "new", "quantity": "1.5"},
        {"key": "edge", "quantity": "2", "at": boundary},
        {"key": "old", "quantity": "4", "at": boundary - timedelta(microseconds=1)},
    )
    assert await world.fold() == set()
    first = world.now - 40 * DAY
    assert await owner_of(world, "old") == (True, sub.item_id, first)
    assert await owner_of(world, "edge") == (True, sub.item_id, boundary)
    assert await quantity(world, sub, boundary) == Decimal("3.5")
    assert await quantity(world, sub, first) == 4
    assert sorted(await marks(world)) == [("due", first), ("due", boundary)]
    assert await unreconciled(world) == 0


async def test_an_hour_with_a_boundary_inside_makes_two_buckets(world: World) -> None:
    hour = (world.now - DAY).replace(minute=0, second=0, microsecond=0)
    boundary = hour + timedelta(minutes=30)
    sub = await world.subscribe("UA", world.now - 30 * DAY)
    await world.period(sub, world.now - 30 * DAY, boundary)
    await world.period(sub, boundary, boundary + 30 * DAY)
    await world.record({"key": "a", "at": hour}, {"key": "b", "at": boundary})
    await world.fold()
    rows = await world.rows("SELECT hour, period_start FROM usage_buckets")
    assert len(rows) == 2
    assert {row["hour"] for row in rows} == {hour}


async def test_the_same_event_again_counts_nothing(world: World) -> None:
    sub = await world.served()
    await world.record({"key": "a", "quantity": "2"}, {"key": "b", "quantity": "3"})
    for _ in range(3):
        assert await world.fold() == set()
    assert await world.buckets() == {sub.item_id: (2, Decimal(5))}
    assert len(await marks(world)) == 1


async def test_a_taken_period_makes_only_its_own_records_wait(world: World) -> None:
    """The finalizer's row lock is not waited for; what is free is folded meanwhile, and nothing is counted twice."""
    taken, free = await world.served(), await world.served(await _another(world))
    await world.record({"key": "a"}, {"key": "b", "customer": "DL"})
    (event,) = await world.reported()
    async with world.worker.transaction() as finalizer:
        await finalizer.execute(
            "SELECT FROM usage_periods WHERE item_id = $1 FOR NO KEY UPDATE", taken.item_id
        )
        assert await world.fold() == {event.event_id}
        assert await owner_of(world, "a") == (False, None, None)
        assert await world.buckets() == {free.item_id: (1, Decimal(1))}
    assert await world.fold() == set()
    assert await world.buckets() == {
        free.item_id: (1, Decimal(1)),
        taken.item_id: (1, Decimal(1)),
    }
    assert await unreconciled(world) == 0


async def test_an_announced_closing_is_respected_until_it_runs_out(world: World) -> None:
    await world.served()
    await world.record({"key": "a"})
    (event,) = await world.reported()
    await world.execute("UPDATE usage_periods SET closing_until = $1", world.now + DAY)
    assert await world.fold() == {event.event_id}
    await world.execute("UPDATE usage_periods SET closing_until = $1", world.now)
    assert await world.fold() == set()


async def test_two_folds_share_a_period(world: World) -> None:
    """Neither waits: they meet only at the hour's bucket, after both hold the period."""
    await world.served()
    await world.record({"key": "a"})
    await world.record({"key": "b", "at": world.now - 2 * timedelta(hours=1)})
    first, second = await world.reported()
    async with world.worker.transaction() as tx:
        assert not await fold(tx, [first], world.now)
        assert await world.fold([second]) == set()
    assert await unreconciled(world) == 0


async def test_a_record_of_a_billed_period_is_marked_for_an_adjustment(world: World) -> None:
    sub = await world.subscribe("UA", world.now - 40 * DAY)
    await world.period(sub, world.now - 40 * DAY, world.now - 10 * DAY, status="billed")
    await world.record({"key": "late", "at": world.now - 20 * DAY})
    await world.fold()
    assert await marks(world) == [("adjust", world.now - 40 * DAY)]
    (mark,) = await world.rows("SELECT * FROM usage_period_marks")
    (event,) = await world.reported()
    assert (mark["event_id"], mark["correlation_id"]) == (event.event_id, event.correlation_id)
    assert mark["subscription_id"] == sub.id


async def test_usage_that_no_subscription_covers_is_unassigned(world: World) -> None:
    start = world.now - DAY
    sub = await world.subscribe("UA", start, canceled_at=world.now - timedelta(hours=1))
    await world.period(sub, start, world.now - timedelta(hours=1))
    await world.customer("DL")
    await world.record(
        {"key": "before", "at": start - timedelta(microseconds=1)},
        {"key": "within", "at": start},
        {"key": "after", "at": world.now - timedelta(hours=1)},
        {"key": "nobody", "customer": "DL"},
    )
    assert await world.fold() == set()
    for key in ("before", "after", "nobody"):
        assert await owner_of(world, key) == (True, None, None)
    assert await world.buckets() == {sub.item_id: (1, Decimal(1))}


async def test_a_covered_record_waits_for_its_period_to_be_made(world: World) -> None:
    sub = await world.subscribe("UA", world.now - DAY)
    await world.record({"key": "a"})
    (event,) = await world.reported()
    assert await world.fold() == {event.event_id}
    assert await owner_of(world, "a") == (False, None, None)
    await world.period(sub, world.now - DAY, world.now + DAY)
    assert await world.fold() == set()
    assert await owner_of(world, "a") == (True, sub.item_id, world.now - DAY)


async def test_nothing_is_written_as_unassigned_while_coverage_is_being_made(world: World) -> None:
    """Whoever makes coverage holds the customer; the record waits and then finds the new subscription."""
    await world.record({"key": "a"})
    (event,) = await world.reported()
    price_id = await world.price("minutes")
    async with world.worker.transaction() as tx:
        await tx.execute(
            "SELECT FROM customers WHERE id = $1 FOR NO KEY UPDATE", world.customers["UA"]
        )
        sub = await world.subscribe("UA", world.now - DAY, price_id=price_id, tx=tx)
        assert await world.fold() == {event.event_id}
    await world.period(sub, world.now - DAY, world.now + DAY)
    assert await world.fold() == set()
    assert await owner_of(world, "a") == (True, sub.item_id, world.now - DAY)


async def test_a_named_subscription_gets_the_record_and_no_other(world: World) -> None:
    one, two = await world.served(), await world.served()
    text = world.subscription_text(two)
    await world.record(
        {"key": "named", "subscription": text},
        {"key": "outside", "subscription": text, "at": world.now - 60 * DAY},
        allow_backfill=True,
    )
    await world.fold()
    assert await owner_of(world, "named") == (True, two.item_id, world.now - 10 * DAY)
    assert await owner_of(world, "outside") == (True, None, None)
    assert one.item_id not in await world.buckets()


async def test_meters_and_tenants_are_kept_apart(databases: Databases, world: World) -> None:
    await world.meter("calls", "count")
    minutes, calls = await world.served(), await world.served(meter="calls")
    other = await make_world(databases)
    theirs = await other.served()
    await world.record({"key": "a", "quantity": "9"}, {"key": "b", "meter": "calls"})
    await other.record({"key": "a", "quantity": "5"})
    assert await world.fold() == set()
    assert await world.buckets() == {
        minutes.item_id: (1, Decimal(9)),
        calls.item_id: (1, Decimal(1)),
        theirs.item_id: (1, Decimal(5)),
    }


async def test_quantities_follow_the_meters_aggregation(world: World) -> None:
    await world.meter("calls", "count")
    await world.meter("peak", "max")
    start = world.now - 10 * DAY
    subs = {meter: await world.served(meter=meter) for meter in ("minutes", "calls", "peak")}
    for meter in subs:
        await world.record(
            *(
                {"key": f"{meter}{n}", "meter": meter, "quantity": q}
                for n, q in enumerate(("2", "7.25"))
            )
        )
    await world.fold()
    assert await quantity(world, subs["minutes"], start) == Decimal("9.25")
    assert await quantity(world, subs["calls"], start) == 2
    assert await quantity(world, subs["peak"], start) == Decimal("7.25")
    assert await quantity(world, subs["peak"], world.now - 40 * DAY) == 0


async def test_the_highest_folded_revision_of_a_record_counts(world: World) -> None:
    sub = await world.served()
    start = world.now - 10 * DAY
    await world.record({"key": "root", "quantity": "5"}, {"key": "other", "quantity": "1"})
    await world.fold()
    copy = (
        "INSERT INTO usage_records SELECT tenant_id, $1, batch_id, 'root', $2, $3, meter_id, customer_id, NULL,"
        " used_at, $4, NULL, accepted_at, $5, CASE WHEN $5 THEN item_id END, CASE WHEN $5 THEN period_start END"
        " FROM usage_records WHERE idempotency_key = 'root'"
    )
    await world.execute(copy, "r1", 1, False, Decimal(50), True)
    assert await quantity(world, sub, start) == 51
    await world.execute(copy, "r2", 2, True, Decimal(50), False)
    assert await quantity(world, sub, start) == 51
    await world.execute(
        "UPDATE usage_records SET folded = true, item_id = $1, period_start = $2 WHERE idempotency_key = 'r2'",
        sub.item_id,
        start,
    )
    assert await quantity(world, sub, start) == 1


async def test_the_reconciliation_counts_each_hour_that_differs(world: World) -> None:
    await world.served()
    await world.record(
        {"key": "a"},
        {"key": "b", "at": world.now - DAY},
        {"key": "c", "at": world.now - 2 * DAY},
    )
    await world.fold()
    await world.execute(
        "UPDATE usage_buckets SET quantity_sum = 2 WHERE hour = (SELECT max(hour) FROM usage_buckets)"
    )
    await world.execute(
        "DELETE FROM usage_buckets WHERE hour = (SELECT min(hour) FROM usage_buckets)"
    )
    assert await unreconciled(world) == 2


async def _another(world: World) -> str:
    await world.customer("DL")
    return "DL"
