"""Test clocks: due instant by due instant, never past anything undone, and never stuck in silence."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from billing.domain.errors import BillingError
from billing.services import test_clock as clocks
from tests.conftest import Databases
from tests.driver import DAY, HOUR, Driver, house_of, utc

START = utc(2013, 1, 1, 5)


async def send(house: Driver, to: datetime) -> None:
    async with house.databases.api.transaction(house.tenant_id) as tx:
        await clocks.advance_test_clock(tx, house.tenant_id, to, house.cause(), now=house.now)


async def subscribed(databases: Databases, customers: int = 1) -> Driver:
    house = await house_of(databases, START)
    await house.plan(fee="10.00", per_minute="0.10")
    for n in range(customers):
        await house.customer(f"C{n}", "America/New_York")
        await house.subscribe(f"C{n}")
        await house.use(START + timedelta(minutes=1), str(n), f"C{n}")
    return house


async def test_two_months_of_sixteen_subscriptions_pass_and_each_thing_happens_at_its_time(
    databases: Databases,
) -> None:
    house = await subscribed(databases, 16)

    await house.advance(utc(2013, 3, 2, 5))

    invoices = await house.invoices()
    assert len(invoices) == 16 * 3
    assert {row["status"] for row in invoices} == {"open"}
    assert all(row["closed_at"] == row["boundary"] for row in invoices)
    assert all(row["finalized_at"] == row["boundary"] + HOUR for row in invoices)
    assert sum(row["total"] for row in invoices) == 16 * 3 * 1000 + 10 * sum(range(16))
    clock = await house.clock()
    assert (clock["business_time"], clock["status"]) == (utc(2013, 3, 2, 5), "ready")
    assert clock["waiting_for"] == ""
    at = "SELECT DISTINCT occurred_at FROM billing_events WHERE subject = 'billing.cycle.closed'"
    assert {row["occurred_at"] for row in await house.rows(at)} == {
        START,
        utc(2013, 2, 1, 5),
        utc(2013, 3, 1, 5),
    }


async def test_a_clock_waits_for_a_consumer_and_says_so(databases: Databases) -> None:
    house = await subscribed(databases)
    await house.deliver()
    await house.rate()
    await house.deliver()
    await send(house, utc(2013, 2, 1, 6))
    worker = house.clock_worker()
    others = ["subscription", "usage", "scheduler"]
    for _ in range(20):
        await worker.step()
        await house.deliver(others)
        await house.rate()

    clock = await house.clock()
    assert clock["status"] == "advancing"
    assert clock["waiting_for"].startswith(
        "the consumer invoice to handle billing.cycle.closed, evt_"
    )
    assert clock["business_time"] == utc(2013, 2, 1, 5)
    # It waits without working, and writes nothing while it does.
    before = dict(clock)
    assert await worker.step() == 0
    assert dict(await house.clock()) == before


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_clock_moves_instant_by_instant_also_under_several_workers(
    databases: Databases, workers: int
) -> None:
    house = await subscribed(databases)
    await house.deliver()
    await house.rate()
    target = utc(2013, 2, 5)
    await send(house, target)
    clocks_of = [house.clock_worker() for _ in range(workers)]
    stops = [(await house.clock())["business_time"]]
    for _ in range(200):
        await asyncio.gather(*(worker.step() for worker in clocks_of))
        stops.append((await house.clock())["business_time"])
        await house.deliver()
        await house.rate()
        if (await house.clock())["status"] == "ready":
            break

    boundary, to_pay = utc(2013, 2, 1, 5), START + HOUR + 30 * DAY
    assert list(dict.fromkeys(stops)) == [
        START,
        START + HOUR,
        to_pay,
        boundary,
        boundary + HOUR,
        target,
    ]


async def test_usage_recorded_before_an_advance_is_counted_before_time_moves(
    databases: Databases,
) -> None:
    house = await subscribed(databases)
    await house.advance(utc(2013, 1, 31))
    await house.use(utc(2013, 1, 30), "70", "C0")

    await house.advance(utc(2013, 2, 1, 7))

    assert [row["total"] for row in await house.invoices()] == [1000, 1700]


PARK = (
    "INSERT INTO router_waiting (consumer, resource, resource_version, event_id, tenant_id, partition, subject,"
    " next_attempt_at, last_error, parked_at)"
    " SELECT $1, resource, resource_version, id, tenant_id, 0, subject, now(), $2, now()"
    " FROM billing_events WHERE subject = 'customer.created'"
)


async def pause(house: Driver, **target: object) -> None:
    ((column, value),) = target.items()
    await house.execute(
        f"INSERT INTO pauses ({column}, reason, actor, paused_at) VALUES ($1, 'wrong rates', 'op', now())",
        value,
    )


async def test_a_clock_waits_as_long_as_a_pause_holds_its_events_and_says_so(
    databases: Databases,
) -> None:
    house = await subscribed(databases)
    await house.deliver()
    await house.execute(PARK, "invoice", "")
    await send(house, utc(2013, 2, 2))
    await pause(house, consumer="invoice")
    worker = house.clock_worker(stall_s=0.0)
    await worker.step()
    await worker.step()

    clock = await house.clock()
    assert clock["status"] == "advancing"
    assert clock["waiting_for"].endswith("; the consumer invoice is paused: wrong rates")

    await house.execute("DELETE FROM pauses")
    await worker.step()
    assert (await house.clock())["waiting_for"]
    assert "paused" not in (await house.clock())["waiting_for"]


async def test_a_pause_that_holds_nothing_of_the_tenant_keeps_no_clock_from_failing(
    databases: Databases,
) -> None:
    house = await subscribed(databases)
    await house.deliver()
    await house.execute(PARK, "webhooks", "no such host")
    await send(house, utc(2013, 2, 2))
    # The clock's own event is in the outbox, of another shard than this.
    shard = await house.value("SELECT (min(shard) + 1)::smallint FROM outbox")
    await pause(house, consumer="invoice")
    await pause(house, shard=shard)
    worker = house.clock_worker(stall_s=0.0)
    await worker.step()
    await worker.step()

    clock = await house.clock()
    assert clock["status"] == "failed"
    assert "paused" not in clock["waiting_for"]


@pytest.mark.parametrize("held", ["shard", "tenant_id"])
async def test_a_clock_waits_for_a_paused_shard_of_its_events_and_for_its_paused_tenant(
    databases: Databases, held: str
) -> None:
    house = await subscribed(databases)
    await house.deliver()
    await send(house, utc(2013, 2, 2))
    shard = await house.value("SELECT min(shard) FROM outbox")
    await pause(house, **{held: {"shard": shard, "tenant_id": house.tenant_id}[held]})
    worker = house.clock_worker(stall_s=0.0)
    await worker.step()
    await worker.step()

    clock = await house.clock()
    assert clock["status"] == "advancing"
    assert clock["waiting_for"].endswith(" is paused: wrong rates")


async def test_a_clock_that_nothing_moves_fails_with_what_it_waits_for_and_can_go_on(
    databases: Databases,
) -> None:
    house = await subscribed(databases)
    await send(house, utc(2013, 2, 2))
    patient, impatient = house.clock_worker(), house.clock_worker(stall_s=0.0)
    assert await patient.step() == 0
    assert (await house.clock())["status"] == "advancing"

    assert await impatient.step() == 0

    failed = await house.clock()
    assert failed["status"] == "failed"
    assert failed["waiting_for"].startswith("the consumer ")
    assert await impatient.step() == 0
    await house.advance(utc(2013, 2, 2))
    assert len(await house.invoices()) == 2


async def test_a_draft_that_cannot_be_rated_fails_the_clock_by_name(databases: Databases) -> None:
    house = await house_of(databases, START)
    await house.customer("UA")
    await house.plan(fee="1.00")
    await house.execute("UPDATE prices SET config = '{}'")
    await house.subscribe()
    await house.deliver()
    await send(house, START + 2 * HOUR)
    worker = house.clock_worker(stall_s=0.0)
    for _ in range(20):
        await worker.step()
        await house.deliver()

    clock = await house.clock()
    assert clock["status"] == "failed"
    assert clock["waiting_for"].startswith("1 invoices to become final, inv_")
    assert clock["waiting_for"].endswith(": RATING_FAILED")


async def test_a_parked_event_holds_the_clock_with_its_error(databases: Databases) -> None:
    house = await subscribed(databases)
    await house.deliver()
    await house.rate()
    await house.execute(PARK, "webhooks", "no such host")
    await send(house, START + DAY)
    await house.deliver()
    worker = house.clock_worker()
    while await worker.step():
        await house.deliver()

    waiting = (await house.clock())["waiting_for"]
    assert waiting.startswith("the consumer webhooks to handle customer.created, evt_")
    assert waiting.endswith(": no such host")


async def test_only_a_tenant_in_test_mode_has_a_clock_and_only_one(databases: Databases) -> None:
    live = await house_of(databases, mode="live")
    with pytest.raises(clocks.NotInTestMode):
        async with databases.api.transaction(live.tenant_id) as tx:
            await clocks.create_test_clock(tx, live.tenant_id, START, live.cause(), now=live.now)
    with pytest.raises(clocks.TestClockNotFound):
        await send(live, START)
    test = await house_of(databases, START)
    with pytest.raises(clocks.TestClockExists):
        async with databases.api.transaction(test.tenant_id) as tx:
            await clocks.create_test_clock(tx, test.tenant_id, START, test.cause(), now=test.now)


async def test_a_clock_goes_forward_at_most_two_years_and_one_way_at_a_time(
    databases: Databases,
) -> None:
    house = await house_of(databases, START)
    wrong: list[tuple[datetime, type[BillingError]]] = [
        (START, clocks.TestClockTargetInvalid),
        (START - DAY, clocks.TestClockTargetInvalid),
        (START + clocks.ADVANCE_MAX + DAY, clocks.TestClockTargetInvalid),
    ]
    for target, error in wrong:
        with pytest.raises(error):
            await send(house, target)
    await send(house, START + DAY)
    with pytest.raises(clocks.TestClockAdvancing):
        await send(house, START + 2 * DAY)

    told = "SELECT subject FROM billing_events WHERE subject LIKE 'test_clock.%' ORDER BY resource_version"
    assert [row["subject"] for row in await house.rows(told)] == [
        "test_clock.created",
        "test_clock.advanced",
    ]
