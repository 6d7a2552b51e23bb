"""Outages and races: late, doubled and crossing work gives the same periods, lines and totals."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from billing.services.finalize_now import announce, finalize_invoice
from billing.services.subscription_edits import ItemChange
from billing.services.subscription_requests import Ends, Later
from billing.services.subscriptions import SubscriptionView
from tests.conftest import Databases
from tests.desk import Desk
from tests.driver import DAY, HOUR, house_of, utc

START = utc(2024, 1, 31, 9)


async def story_of(databases: Databases) -> tuple[Desk, Sequence[SubscriptionView]]:
    """Three subscriptions with everything agreed beforehand: changes, ends, a trial; and their usage so far."""
    house = await house_of(databases, START)
    desk = Desk(house)
    for name in ("UA", "DL", "AA"):
        await house.customer(name, "America/New_York")
    await house.plan(fee="31.00", per_minute="0.10")
    subs = [
        await desk.subscribe("UA", items={"Fee": "2", "Minutes": ""}),
        await desk.subscribe("DL", ends=Ends(at=START + DAY * 45)),
        await desk.subscribe("AA", trial_days=10),
    ]
    await house.advance(START + HOUR)
    fee = subs[0].items[0].id
    await desk.change(subs[0].row.id, ItemChange(fee, quantity="5"), later=Later(START + DAY * 12))
    await desk.change(subs[0].row.id, ItemChange(fee, quantity="3"), later=Later())
    await desk.cancel(subs[2].row.id, Later(START + DAY * 50))
    for name in ("UA", "DL", "AA"):
        await house.use(START + HOUR / 2, "40", name)
    return desk, subs


async def settled(desk: Desk, workers: int) -> list[tuple[Any, ...]]:
    """What the invoices say when `workers` schedulers have done all that is due, twice."""
    house = desk.house
    schedulers = [house.scheduler(batch_max=2, late_every=1) for _ in range(workers)]
    for _ in range(200):
        done = await asyncio.gather(*(one.step() for one in schedulers))
        if sum(done) + await house.deliver() == 0:
            break
    else:
        raise AssertionError("something stays due for ever")
    return await desk.house.book()


async def test_an_outage_of_weeks_and_two_schedulers_give_the_invoices_of_a_punctual_one(
    databases: Databases,
) -> None:
    books = []
    for outage in (False, True):
        desk, _ = await story_of(databases)
        end = START + DAY * 62
        if outage:
            clock = (
                "UPDATE test_clocks SET business_time = $2, target_time = $2 WHERE tenant_id = $1"
            )
            for at in (end, end + HOUR):
                await desk.house.execute(clock, desk.house.tenant_id, at)
                await settled(desk, 2)
        else:
            await desk.house.advance(end + HOUR)
        books.append(await desk.house.book())
    assert books[0] == books[1]
    kinds = {row[0] for row in books[0]}
    assert kinds == {"activation", "period", "change", "final"}


async def test_a_change_against_a_closing_cycle_comes_wholly_before_or_after_it(
    databases: Databases,
) -> None:
    house = await house_of(databases, START)
    desk = Desk(house)
    await house.plan(fee="30.00", per_minute="0.10")
    subs = []
    for n in range(6):
        await house.customer(f"C{n}")
        subs.append(await desk.subscribe(f"C{n}", items={"Fee": "1", "Minutes": ""}))
    end = utc(2024, 2, 29, 9)
    await house.advance(end - HOUR)
    clock = "UPDATE test_clocks SET business_time = $1, target_time = $1"
    await house.execute(clock, end)
    crossing = [
        desk.change(sub.row.id, ItemChange(sub.items[0].id, quantity="4")) for sub in subs[:4]
    ]
    crossing += [desk.cancel(sub.row.id) for sub in subs[4:]]
    schedulers = [house.scheduler(batch_max=2) for _ in range(2)]
    await asyncio.gather(*crossing, *(one.step() for one in schedulers))
    await house.settle()
    await house.execute(clock, end + HOUR * 2)
    await house.settle()

    for n, sub in enumerate(subs):
        rows = await house.rows(
            "SELECT i.kind, i.boundary, l.amount FROM invoices i JOIN invoice_lines l"
            " ON l.tenant_id = i.tenant_id AND l.invoice_id = i.id"
            " WHERE i.subscription_id = $1 AND l.kind = 'fee' ORDER BY i.boundary, i.kind, l.line_number",
            sub.row.id,
        )
        lines = sorted((row["kind"], row["boundary"], row["amount"]) for row in rows)
        changed = (
            [("change", end, -30_00), ("change", end, 120_00)]
            if n < 4
            else [("final", end, -30_00)]
        )
        assert lines == [("activation", START, 30_00), *changed, ("period", end, 30_00)]
        spans = await house.rows(
            "SELECT period_start, period_end FROM usage_periods WHERE subscription_id = $1 ORDER BY 1",
            sub.row.id,
        )
        ends = [span["period_end"] for span in spans]
        assert [span["period_start"] for span in spans] == [START, *ends[:-1]]
        assert ends[-1] == end if n >= 4 else ends[-1] > end + timedelta(days=28)


async def test_late_usage_of_an_ended_subscription_is_adjusted_when_the_limit_has_passed(
    databases: Databases,
) -> None:
    house = await house_of(databases, START)
    desk = Desk(house)
    await house.customer()
    await house.plan(per_minute="0.10")
    made = await desk.subscribe()
    await house.advance(START + DAY)
    await desk.cancel(made.row.id)
    await house.advance(START + DAY * 3)
    await house.use(START + HOUR, "50")
    await house.advance(START + DAY * 35)
    assert [kind for kind, _ in await desk.keys()] == ["final"]
    await house.advance(START + DAY * 37)
    assert (await desk.keys())[-1] == ("adjustment", START + DAY * 36)
    assert [amount for _, amount in await desk.lines("adjustment")] == [5_00]
    await house.use(START + HOUR, "20", backfill=True)
    await house.advance(START + DAY * 39)
    assert [amount for _, amount in await desk.lines("adjustment")] == [5_00, 2_00]


async def test_late_usage_is_adjusted_again_while_the_clock_stands(databases: Databases) -> None:
    """The first adjustment of that instant is final, so the second one has the next microsecond."""
    house = await house_of(databases, START)
    desk = Desk(house)
    await house.customer()
    await house.plan(per_minute="0.10")
    made = await desk.subscribe()
    await house.advance(START + DAY)
    await desk.cancel(made.row.id)
    now = START + DAY * 40
    await house.advance(now)
    for _ in range(2):
        await house.use(START + HOUR, "50", backfill=True)
        await house.settle(house.scheduler(late_every=1))
        (draft,) = [row for row in await house.invoices() if row["status"] == "draft"]
        async with databases.api.transaction(house.tenant_id) as tx:
            await announce(tx, house.tenant_id, draft["id"], house.now)
        async with databases.api.transaction(house.tenant_id) as tx:
            await finalize_invoice(tx, house.tenant_id, draft["id"], house.cause(), now=house.now)
    assert (await desk.keys())[1:] == [
        ("adjustment", now),
        ("adjustment", now + timedelta(microseconds=1)),
    ]
    assert [amount for _, amount in await desk.lines("adjustment")] == [5_00, 5_00]
