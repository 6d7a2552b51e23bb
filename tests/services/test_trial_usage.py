"""Usage of a trial costs nothing, unless the price says so; then it is billed once, wherever the trial ends."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from billing.domain.errors import Invalid
from billing.domain.subscription import SubscriptionAction
from billing.services import catalog
from billing.services.prices import Successor, supersede_price
from billing.services.subscription_edits import ItemChange
from billing.services.subscription_requests import Later
from billing.services.subscription_steps import move_subscription
from tests.conftest import Databases
from tests.desk import Desk
from tests.driver import DAY, HOUR, Driver, house_of, utc

START = utc(2024, 5, 1)
TRIAL_END = START + 14 * DAY
LATER = utc(2024, 6, 16)


async def add_price(
    desk: Desk, name: str, amount: str, *, billed: bool, plan: str = "plan", minimum: str = ""
) -> Any:
    """In place of the one that the plan has, if it has one."""
    house = desk.house
    await house.execute("UPDATE prices SET archived_at = $1 WHERE meter_id IS NOT NULL", START)
    config = {"unit_amount": amount} | ({"minimum_amount": minimum} if minimum else {})
    draft = catalog.NewPrice(name, "minutes", "", "per_unit", config, None, bill_trial_usage=billed)
    async with house.databases.api.transaction(house.tenant_id) as tx:
        found, _ = await catalog.get_plan(tx, house.tenant_id, key=plan)
        return await catalog.create_price(
            tx, house.tenant_id, found, draft, house.cause(), now=house.now
        )


async def desk_of(databases: Databases, **numbers: Any) -> Desk:
    """A plan of a fee of 31.00, and minutes at 0.10 whose trials are billed unless it is said otherwise."""
    desk = Desk(await house_of(databases, START))
    await desk.house.customer("UA")
    await desk.house.plan(fee="31.00")
    await desk.house.meter("minutes")
    await add_price(desk, "Minutes", "0.10", **{"billed": True, **numbers})
    return desk


async def use(house: Driver, at: datetime, quantity: str, *, backfill: bool = False) -> None:
    await house.use(at, quantity, backfill=backfill)
    await house.deliver()


@pytest.mark.parametrize("billed", [True, False])
async def test_the_activation_bills_the_trial_s_usage_if_the_price_says_so(
    databases: Databases, billed: bool
) -> None:
    desk = await desk_of(databases, billed=billed)
    house = desk.house
    await desk.subscribe(trial_days=14)
    await house.advance(START + 5 * DAY)
    await use(house, START + 3 * DAY, "120")
    await house.rate()
    charged = await house.value("SELECT sum(amount)::int FROM charges")
    assert charged == (12_00 if billed else 0)
    await house.advance(START + 15 * DAY)
    await use(house, TRIAL_END, "7")
    await house.advance(LATER)
    trial = [("Minutes", 12_00)] if billed else []
    assert await desk.lines("activation", TRIAL_END) == [*trial, ("Fee", 31_00)]
    assert await desk.lines("period") == [("Minutes", 70), ("Fee", 31_00)]


async def test_a_trial_that_is_ended_early_is_billed_where_it_ends(databases: Databases) -> None:
    desk = await desk_of(databases)
    house = desk.house
    made = await desk.subscribe(trial_days=14)
    end = START + 5 * DAY
    await house.advance(end)
    await use(house, end - HOUR, "10")
    await use(house, end + timedelta(minutes=4), "3")
    async with house.databases.api.transaction(house.tenant_id) as tx:
        await move_subscription(tx, desk.asking(made.row.id), SubscriptionAction.ACTIVATE)
    await house.advance(LATER)
    assert await desk.lines("activation", end) == [("Minutes", 1_00), ("Fee", 31_00)]
    assert (await desk.lines("period"))[0] == ("Minutes", 30)


@pytest.mark.parametrize("billed", [True, False])
async def test_a_cancellation_in_the_trial_bills_it_on_a_final_invoice(
    databases: Databases, billed: bool
) -> None:
    desk = await desk_of(databases, billed=billed)
    house = desk.house
    made = await desk.subscribe(trial_days=14)
    end = START + 5 * DAY
    await house.advance(end)
    await use(house, end - HOUR, "10")
    await use(house, end + timedelta(minutes=4), "3")
    await desk.cancel(made.row.id)
    await house.advance(end + DAY)
    assert await desk.keys() == ([("final", end)] if billed else [])
    assert await desk.lines("final") == ([("Minutes", 1_00)] if billed else [])
    # What comes late for it is billed when the backdating limit has passed.
    await use(house, end - HOUR, "5")
    await house.advance(end + 40 * DAY)
    assert await desk.lines("adjustment") == ([("Minutes: adjustment", 50)] if billed else [])


async def test_a_cancellation_before_the_start_bills_nothing(databases: Databases) -> None:
    desk = await desk_of(databases)
    made = await desk.subscribe(trial_days=14, start_at=START + 3 * DAY)
    await desk.house.advance(START + DAY)
    await desk.cancel(made.row.id)
    await desk.house.advance(LATER)
    assert await desk.keys() == []


async def test_a_trial_that_ends_the_subscription_is_billed_there(databases: Databases) -> None:
    desk = await desk_of(databases)
    made = await desk.subscribe(trial_days=14)
    await desk.house.advance(START + DAY)
    await use(desk.house, START + HOUR, "10")
    await desk.cancel(made.row.id, Later())
    await desk.house.advance(LATER)
    assert await desk.keys() == [("final", TRIAL_END)]
    assert await desk.lines("final") == [("Minutes", 1_00)]


async def test_what_was_used_before_the_subscription_was_made_is_billed_with_its_trial(
    databases: Databases,
) -> None:
    desk = await desk_of(databases)
    house = desk.house
    await house.advance(START + 5 * DAY)
    await use(house, START + 3 * DAY, "10")
    await desk.subscribe(trial_days=14, start_at=START + 2 * DAY)
    await house.advance(LATER)
    assert (await desk.lines("activation"))[0] == ("Minutes", 1_00)


async def test_late_usage_of_a_billed_trial_is_adjusted_on_the_next_invoice(
    databases: Databases,
) -> None:
    desk = await desk_of(databases)
    house = desk.house
    await desk.subscribe(trial_days=14)
    await house.advance(START + 5 * DAY)
    await use(house, START + 3 * DAY, "120")
    await house.advance(START + 20 * DAY)
    await use(house, START + 4 * DAY, "30")
    await house.advance(LATER)
    assert await desk.lines("activation") == [("Minutes", 12_00), ("Fee", 31_00)]
    assert ("Minutes: adjustment", 3_00) in await desk.lines("period")


async def test_within_a_trial_each_price_says_whether_its_stretch_is_billed(
    databases: Databases,
) -> None:
    desk = await desk_of(databases, billed=False)
    house = desk.house
    made = await desk.subscribe(trial_days=14, items={"Fee": "1", "Minutes": "1"})
    dear = await add_price(desk, "Dear", "1.00", billed=True)
    item = next(item.id for item in made.items if item.meter_id)
    await house.advance(START + 5 * DAY)
    await use(house, START + 3 * DAY, "10")
    await desk.change(made.row.id, ItemChange(item, dear.id))
    await house.advance(START + 7 * DAY)
    await use(house, START + 6 * DAY, "2")
    await house.advance(LATER)
    assert await desk.lines("activation") == [("Dear", 2_00), ("Fee", 31_00)]


async def test_another_price_before_the_start_says_whether_the_trial_is_billed(
    databases: Databases,
) -> None:
    desk = await desk_of(databases)
    made = await desk.subscribe(
        trial_days=14, start_at=START + DAY, items={"Fee": "1", "Minutes": "1"}
    )
    free = await add_price(desk, "Free", "1.00", billed=False)
    item = next(item.id for item in made.items if item.meter_id)
    await desk.change(made.row.id, ItemChange(item, free.id))
    keys = {(kind, end) for _, _, kind, end in await desk.usage_periods()}
    assert (None, None) in keys
    assert not any(kind == "activation" for kind, _ in keys)
    dear = await add_price(desk, "Dear", "1.00", billed=True)
    await desk.change(made.row.id, ItemChange(item, dear.id))
    keys = {(kind, end) for _, _, kind, end in await desk.usage_periods()}
    assert ("activation", START + 15 * DAY) in keys
    assert None not in {kind for kind, _ in keys}


async def test_a_minimum_scales_by_the_trial_s_share_of_the_interval(databases: Databases) -> None:
    desk = await desk_of(databases, minimum="31.00")
    await desk.subscribe(trial_days=14)
    await desk.house.advance(TRIAL_END + 2 * HOUR)
    assert [amount for _, amount in await desk.lines("activation")] == [0, 14_00, 31_00]


async def test_what_another_system_has_billed_is_not_billed_as_a_trial(
    databases: Databases,
) -> None:
    desk = await desk_of(databases)
    await desk.house.advance(START + 10 * DAY)
    await desk.subscribe(trial_days=14, start_at=START, billed_until=utc(2024, 6, 1))
    assert {kind for _, _, kind, _ in await desk.usage_periods()} == {None, "period"}


async def test_only_usage_can_be_billed_for_a_trial_and_a_successor_takes_it_over(
    databases: Databases,
) -> None:
    desk = await desk_of(databases)
    house = desk.house
    async with house.databases.api.transaction(house.tenant_id) as tx:
        plan, prices = await catalog.get_plan(tx, house.tenant_id, key="plan")
        old = next(price for price in prices if price.meter_id)
        new, _ = await supersede_price(
            tx,
            house.tenant_id,
            old.id,
            Successor("", "per_unit", {"unit_amount": "2"}),
            house.cause(),
            now=house.now,
        )
        assert new.bill_trial_usage
        flat = catalog.NewPrice(
            "Seats", "", "", "flat", {"amount": "1"}, None, bill_trial_usage=True
        )
        with pytest.raises(Invalid, match="has no usage"):
            await catalog.create_price(
                tx, house.tenant_id, plan, flat, house.cause(), now=house.now
            )
