"""The scheduler: an outage, a repetition or a second one gives the same invoices."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

from billing.services.due_subscriptions import Share, run_due
from tests.conftest import Databases
from tests.driver import DAY, Driver, house_of

SUBSCRIPTIONS = 12


async def live_house(databases: Databases, began: timedelta, **plan: Any) -> Driver:
    """A tenant in machine time whose subscriptions began so long ago, with a little usage."""
    house = await house_of(databases, mode="live")
    await house.plan(**{"fee": "10.00", "per_minute": "0.10", "interval": "day"} | plan)
    start = (house.now - began).replace(microsecond=0)
    for n in range(SUBSCRIPTIONS):
        await house.customer(f"C{n}")
        await house.subscribe(f"C{n}", start_at=start + timedelta(minutes=n))
        await house.use(start + timedelta(hours=5 + n), str(n), f"C{n}")
    return house


async def test_an_outage_of_a_week_gives_the_same_invoices(databases: Databases) -> None:
    """One house is caught up in one go; the other is closed day by day, by shifting what is due."""
    late = await live_house(databases, timedelta(days=7, hours=12))
    await late.settle()
    await late.make_final()
    late_book = await late.book()

    start = await late.value("SELECT min(start_at) FROM subscriptions")
    punctual = await house_of(databases, start)
    await punctual.plan(fee="10.00", per_minute="0.10", interval="day")
    for n in range(SUBSCRIPTIONS):
        await punctual.customer(f"C{n}")
        await punctual.subscribe(f"C{n}", start_at=start + timedelta(minutes=n))
    await punctual.advance(start + timedelta(hours=20))
    for n in range(SUBSCRIPTIONS):
        await punctual.use(start + timedelta(hours=5 + n), str(n), f"C{n}")
    await punctual.advance(start + timedelta(days=7, hours=20))

    assert len(late_book) == SUBSCRIPTIONS * (1 + 2 * 7)
    assert await punctual.book() == late_book


async def test_schedulers_side_by_side_close_each_period_once(databases: Databases) -> None:
    house = await live_house(databases, timedelta(days=3, hours=1))
    schedulers = [house.scheduler(batch_max=5) for _ in range(4)]
    await house.deliver()

    for _ in range(30):
        done = await asyncio.gather(*(scheduler.step() for scheduler in schedulers))
        await house.deliver()
        if not any(done):
            break

    cycles = await house.rows(
        "SELECT subscription_id, count(*) FILTER (WHERE closed_at IS NOT NULL) AS closed, count(*) AS n"
        " FROM billing_cycles GROUP BY subscription_id"
    )
    assert {(row["closed"], row["n"]) for row in cycles} == {(4, 5)}
    assert await house.value("SELECT count(*) FROM invoices") == SUBSCRIPTIONS * 4
    told = "SELECT count(*) FROM billing_events WHERE subject = 'billing.cycle.closed'"
    assert await house.value(told) == SUBSCRIPTIONS * 4


async def test_catching_up_does_not_hold_back_what_falls_due_now(databases: Databases) -> None:
    house = await live_house(databases, timedelta(days=30))
    await house.customer("new")
    await house.plan("monthly", fee="1.00", interval="day")
    await house.subscribe("new", plan="monthly", start_at=house.now - DAY)
    await house.deliver()
    scheduler = house.scheduler(batch_max=1, newest_every=4)

    for _ in range(4):
        await scheduler.step()

    closed = "SELECT count(*) FROM billing_cycles WHERE kind = 'period' AND closed_at IS NOT NULL"
    newest = "(SELECT id FROM subscriptions ORDER BY start_at DESC LIMIT 1)"
    assert await house.value(f"{closed} AND subscription_id = {newest}") == 1
    assert await house.value(closed) == 4


async def test_a_scheduler_that_dies_before_its_commit_leaves_everything_due(
    databases: Databases,
) -> None:
    house = await live_house(databases, timedelta(days=1, hours=1))
    await house.deliver()
    before = await house.rows("SELECT * FROM subscriptions ORDER BY id")

    class Died(Exception):
        pass

    try:
        async with databases.worker.transaction() as tx:
            assert await run_due(tx, Share.OLDEST, batch_max=100, now=house.now) == SUBSCRIPTIONS
            raise Died
    except Died:
        pass

    assert await house.rows("SELECT * FROM subscriptions ORDER BY id") == before
    await house.settle()
    assert await house.value("SELECT count(*) FROM invoices") == SUBSCRIPTIONS * 2


async def test_nothing_due_is_no_work(databases: Databases) -> None:
    house = await live_house(databases, timedelta(hours=20), interval="month")
    await house.settle()
    due: datetime = await house.value("SELECT min(next_due_at) FROM subscriptions")

    assert due > house.now
    assert await house.scheduler().step() == 0
