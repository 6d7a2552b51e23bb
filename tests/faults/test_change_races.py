"""A change against the closing of a cycle, under fire: each begun before every statement of the other.

Whatever comes first, the period that has ended is billed by what it was, once, and the change begins behind it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from billing.services.due_subscriptions import Share, run_due
from billing.services.subscription_edits import Change, ItemChange
from billing.services.subscription_requests import cancel_subscription, change_subscription
from billing.services.subscriptions import SubscriptionView
from tests.conftest import LONG, Databases
from tests.desk import Desk
from tests.driver import DAY, HOUR, Driver, house_of, utc
from tests.faults.test_finalization_races import Hook, Stepping

START, BOUNDARY = utc(2024, 5, 1), utc(2024, 6, 1)
CHANGED = BOUNDARY + HOUR / 2
LATER = utc(2024, 7, 1) + 2 * HOUR
# More than a change or a closing has: the tests find out. In the small size they strike before every fifth.
STATEMENTS_MAX = 150
POINTS = range(0, STATEMENTS_MAX, 1 if LONG else 5)
WHAT = ("price and quantity", "interval", "cancel")


class World:
    """A subscription whose period has ended half an hour ago, and what somebody does to it."""

    def __init__(self, house: Driver, made: SubscriptionView, what: str) -> None:
        self.house, self.made, self.what = house, made, what
        self.desk = Desk(house)

    @classmethod
    async def make(cls, databases: Databases, what: str) -> World:
        house = await house_of(databases, CHANGED)
        await house.customer("UA")
        await house.plan(fee="31.00", per_minute="1.00")
        await house.plan("weekly", fee="7.00", per_minute="2.00", interval="week")
        made = await house.subscribe(start_at=START)
        await house.use(START + DAY, "10")
        await house.use(BOUNDARY + HOUR / 6, "3")
        await (
            house.deliver()
        )  # active, and its first period open; nothing closes but by the scheduler
        return cls(house, made, what)

    async def close(self, before: Hook) -> int:
        """One turn of the scheduler; returns how many statements it had."""
        async with self.house.databases.worker.transaction() as tx:
            work: Any = Stepping(tx, before)
            await run_due(
                work,
                Share.ON_TEST_CLOCKS,
                batch_max=10,
                now=self.house.now,
                tenant_id=self.house.tenant_id,
            )
        return int(work.count)

    async def change(self, before: Hook) -> int:
        """The same of what is asked for."""
        request = self.desk.asking(self.made.row.id)
        change = await self._change()
        async with self.house.databases.api.transaction(self.house.tenant_id) as tx:
            work: Any = Stepping(tx, before)
            if change is None:
                await cancel_subscription(work, request, credit=True)
            else:
                await change_subscription(work, request, change)
        return int(work.count)

    async def _change(self) -> Change | None:
        if self.what == "cancel":
            return None
        fee = next(item.id for item in self.made.items if not item.meter_id)
        minutes = next(item.id for item in self.made.items if item.meter_id)
        if self.what == "interval":
            prices = await self.desk.prices("weekly")
            items = (ItemChange(fee, prices["Fee"]), ItemChange(minutes, prices["Minutes"]))
            return Change(items, plan_key="weekly")
        dear = await self.desk.supersede("Minutes", unit_amount="2.00")
        return Change((ItemChange(fee, quantity="2"), ItemChange(minutes, dear)))

    async def outcome(self) -> tuple[Any, ...]:
        """Everything that a month later was billed, and where usage lies."""
        house = self.house
        await house.settle()
        await house.use(CHANGED - HOUR / 6, "5", backfill=True)
        await house.deliver()
        await house.advance(LATER)
        lines = await house.rows(
            "SELECT i.kind, i.boundary, i.number, l.description, l.period_start, l.period_end, l.amount"
            " FROM invoices i LEFT JOIN invoice_lines l ON l.tenant_id = i.tenant_id AND l.invoice_id = i.id"
            " WHERE i.tenant_id = $1 ORDER BY i.boundary, i.kind, l.line_number",
            house.tenant_id,
        )
        cycles = await house.rows(
            "SELECT kind, boundary, period_start, closed_at IS NULL FROM billing_cycles WHERE tenant_id = $1"
            " ORDER BY boundary, kind",
            house.tenant_id,
        )
        return (
            [tuple(row) for row in lines],
            [tuple(row) for row in cycles],
            await self.desk.usage_periods(),
            await self.desk.owned(),
        )


async def nothing(_: int) -> None:
    """Between statements nothing happens."""


async def until_it_waits_or_is_done(house: Driver, task: asyncio.Task[int]) -> None:
    """The other one has come as far as it can: to its end, or to a lock that this one holds."""
    waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
    while not task.done() and not await house.value(waiting):
        await asyncio.wait({task}, timeout=0.002)


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("first", ["the change", "the closing"])
async def test_a_change_and_a_closing_begun_at_any_point_of_each_other_bill_the_same(
    databases: Databases, what: str, first: str
) -> None:
    alone = await World.make(databases, what)
    await alone.close(nothing)
    await alone.change(nothing)
    expected = await alone.outcome()
    for point in POINTS:
        world = await World.make(databases, what)
        outer, inner = world.change, world.close
        if first == "the closing":
            outer, inner = inner, outer
        begun: list[asyncio.Task[int]] = []

        async def strike(n: int, at: int = point, of: Any = (world, inner, begun)) -> None:
            if n == at:
                of[2].append(asyncio.create_task(of[1](nothing)))
                await until_it_waits_or_is_done(of[0].house, of[2][0])

        statements = await outer(strike)
        if not begun:
            break
        await begun[0]
        assert await world.outcome() == expected, f"begun before statement {point} of {statements}"
    assert 0 < point < STATEMENTS_MAX - 5
