"""Changes of subscriptions: what is charged and given back, to the second, and where usage goes."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from billing.domain.errors import BillingError, Invalid
from billing.domain.subscription import SubscriptionAction
from billing.services.catalog import MeterAlreadyPriced
from billing.services.prices import PriceNotFound
from billing.services.subscription_edits import ItemChange, ItemNotFound, Proration
from billing.services.subscription_hold import SubscriptionCanceled
from billing.services.subscription_preview import Moment as Ahead
from billing.services.subscription_preview import preview_subscription
from billing.services.subscription_requests import Later, NotCanceling
from billing.services.subscription_steps import move_subscription
from tests.conftest import Databases
from tests.desk import Desk
from tests.driver import DAY, HOUR, house_of, utc

START = utc(2024, 4, 1)  # April has 30 days
MIDDLE = utc(2024, 4, 16)


async def desk_of(databases: Databases, **plan: str) -> Desk:
    house = await house_of(databases, START)
    await house.customer()
    await house.plan(**(plan or {"fee": "30.00"}))
    return Desk(house)


async def test_more_licenses_in_the_middle_cost_the_rest_of_the_period_and_give_the_old_rest_back(
    databases: Databases,
) -> None:
    desk = await desk_of(databases)
    made = await desk.subscribe(items={"Fee": "2"})
    await desk.house.advance(MIDDLE)
    asked = await desk.change(made.row.id, ItemChange(made.items[0].id, quantity="5"))
    assert [item.quantity for item in asked.view.items] == [5]
    await desk.house.advance(utc(2024, 5, 2))

    assert await desk.lines("activation") == [("Fee", 60_00)]
    assert await desk.lines("change", MIDDLE) == [
        ("Fee: unused time", -30_00),
        ("Fee: remaining time", 75_00),
    ]
    assert await desk.lines("period", utc(2024, 5, 1)) == [("Fee", 150_00)]


async def test_a_change_and_its_reverse_at_one_instant_share_an_invoice_and_net_to_zero(
    databases: Databases,
) -> None:
    desk = await desk_of(databases, fee="9.99")
    made = await desk.subscribe(items={"Fee": "1"})
    await desk.house.advance(START + timedelta(days=7, hours=3, seconds=1))
    await desk.change(made.row.id, ItemChange(made.items[0].id, quantity="3"))
    await desk.change(made.row.id, ItemChange(made.items[0].id, quantity="1"))
    await desk.house.advance(START + DAY * 8)
    amounts = [amount for _, amount in await desk.lines("change")]
    assert len(amounts) == 4
    assert amounts[0] + amounts[3] == 0 == amounts[1] + amounts[2]


async def changed_after_its_invoice(desk: Desk) -> UUID:
    """A subscription changed twice at one instant, the second time when the first one's invoice is final."""
    made = await desk.subscribe(items={"Fee": "1"})
    await desk.house.advance(MIDDLE)
    await desk.change(made.row.id, ItemChange(made.items[0].id, quantity="2"))
    await desk.house.deliver()
    await desk.house.execute("UPDATE invoices SET finalize_at = boundary WHERE kind = 'change'")
    await desk.house.settle()
    await desk.change(made.row.id, ItemChange(made.items[0].id, quantity="3"))
    return made.row.id


async def test_a_change_after_the_invoice_of_one_at_the_same_instant_takes_the_next_microsecond(
    databases: Databases,
) -> None:
    desk = await desk_of(databases)
    await changed_after_its_invoice(desk)
    await desk.house.deliver()
    changes = [at for kind, at in await desk.keys() if kind == "change"]
    assert changes == [MIDDLE, MIDDLE + timedelta(microseconds=1)]


async def test_an_end_at_the_instant_of_changes_never_comes_before_them(
    databases: Databases,
) -> None:
    """The first change's invoice is final, so the second one begins a microsecond later, and so does the end."""
    desk = await desk_of(databases)
    await desk.cancel(await changed_after_its_invoice(desk))
    await desk.house.advance(MIDDLE + DAY)
    later = MIDDLE + timedelta(microseconds=1)
    assert (await desk.keys())[1:] == [("change", MIDDLE), ("change", later), ("final", later)]
    assert await desk.lines("final") == [("Fee: unused time", -45_00)]


async def test_another_metered_price_ends_the_usage_period_and_moves_what_was_used_behind_it(
    databases: Databases,
) -> None:
    desk = await desk_of(databases, per_minute="0.10")
    made = await desk.subscribe()
    await desk.house.advance(MIDDLE)
    await desk.house.use(MIDDLE - HOUR, "10")
    await desk.house.use(MIDDLE + timedelta(minutes=4), "7")
    await desk.house.deliver()
    dear = await desk.supersede("Minutes", unit_amount="1.00")
    await desk.change(made.row.id, ItemChange(made.items[0].id, dear))
    await desk.house.deliver()

    end = utc(2024, 5, 1)
    assert (await desk.usage_periods())[:2] == [
        (START, MIDDLE, "period", end),
        (MIDDLE, end, "period", end),
    ]
    assert await desk.owned() == [
        (MIDDLE - HOUR, START),
        (MIDDLE + timedelta(minutes=4), MIDDLE),
    ]
    await desk.house.advance(end + DAY)
    assert [amount for _, amount in await desk.lines("period", end)] == [1_00, 7_00]


async def test_a_cancellation_bills_what_was_used_and_gives_the_unused_fee_back(
    databases: Databases,
) -> None:
    desk = await desk_of(databases, fee="30.00", per_minute="0.10")
    made = await desk.subscribe()
    await desk.house.advance(MIDDLE)
    await desk.house.use(MIDDLE - HOUR, "10")
    await desk.house.use(MIDDLE + timedelta(minutes=4), "7")
    await desk.house.deliver()
    asked = await desk.cancel(made.row.id)
    assert (asked.view.row.status, asked.view.row.canceled_at) == ("canceled", MIDDLE)
    await desk.house.advance(utc(2024, 6, 2))

    assert await desk.lines("final", MIDDLE) == [("Minutes", 1_00), ("Fee: unused time", -15_00)]
    assert await desk.keys() == [("activation", START), ("final", MIDDLE)]
    assert (await desk.owned())[-1] == (MIDDLE + timedelta(minutes=4), None)
    with pytest.raises(SubscriptionCanceled):
        await desk.cancel(made.row.id)


async def test_a_cancellation_at_the_period_s_end_makes_one_final_invoice_and_no_new_fee(
    databases: Databases,
) -> None:
    desk = await desk_of(databases, fee="30.00", per_minute="0.10")
    made = await desk.subscribe()
    await desk.house.advance(MIDDLE)
    asked = await desk.cancel(made.row.id, Later())
    assert asked.scheduled is not None
    assert asked.scheduled.due_at == utc(2024, 5, 1)
    assert asked.view.row.status == "active"
    await desk.house.use(MIDDLE - HOUR, "10")
    await desk.house.advance(utc(2024, 6, 2))
    assert await desk.keys() == [("activation", START), ("final", utc(2024, 5, 1))]
    assert await desk.lines("final") == [("Minutes", 1_00)]


async def test_an_end_that_was_taken_back_does_not_come(databases: Databases) -> None:
    desk = await desk_of(databases)
    made = await desk.subscribe()
    await desk.house.advance(MIDDLE)
    with pytest.raises(NotCanceling):
        await desk.uncancel(made.row.id)
    await desk.cancel(made.row.id, Later())
    await desk.uncancel(made.row.id)
    await desk.house.advance(utc(2024, 5, 2))
    assert await desk.keys() == [("activation", START), ("period", utc(2024, 5, 1))]


async def test_a_change_at_the_period_s_end_charges_the_new_quantity_without_any_pair(
    databases: Databases,
) -> None:
    desk = await desk_of(databases)
    made = await desk.subscribe(items={"Fee": "5"})
    await desk.house.advance(MIDDLE)
    await desk.change(made.row.id, ItemChange(made.items[0].id, quantity="2"), later=Later())
    await desk.house.advance(utc(2024, 6, 2))
    assert await desk.keys() == [
        ("activation", START),
        ("period", utc(2024, 5, 1)),
        ("period", utc(2024, 6, 1)),
    ]
    assert await desk.lines("period", utc(2024, 5, 1)) == [("Fee", 60_00)]


async def test_a_change_of_interval_ends_the_period_and_keeps_the_anchor_s_day(
    databases: Databases,
) -> None:
    desk = await desk_of(databases, fee="30.00", per_minute="0.10")
    await desk.house.plan("yearly", fee="366.00", per_minute="0.05", interval="year")
    made = await desk.subscribe(start_at=START)
    await desk.house.advance(MIDDLE)
    await desk.house.use(MIDDLE - HOUR, "10")
    new = await desk.prices("yearly")
    plan = (await desk.house.rows("SELECT id FROM plans WHERE key = 'yearly'"))[0]["id"]
    fee, minutes = sorted(made.items, key=lambda item: item.meter_id is not None)
    await desk.change(
        made.row.id,
        ItemChange(fee.id, new["Fee"]),
        ItemChange(minutes.id, new["Minutes"]),
        plan_id=plan,
    )
    await desk.house.use(MIDDLE, "20")
    await desk.house.advance(utc(2025, 4, 2))
    # The year from April 1 has 365 days; 350 of them are left.
    assert await desk.lines("change", MIDDLE) == [
        ("Minutes", 1_00),
        ("Fee: unused time", -15_00),
        ("Fee: remaining time", 350_96),
    ]
    assert await desk.lines("period", utc(2025, 4, 1)) == [("Minutes", 1_00), ("Fee", 366_00)]


async def test_items_are_added_and_removed_in_the_middle(databases: Databases) -> None:
    desk = await desk_of(databases, fee="30.00", per_minute="0.10")
    made = await desk.subscribe(items={"Fee": "1"})
    prices = await desk.prices()
    await desk.house.advance(MIDDLE)
    asked = await desk.change(made.row.id, ItemChange(price_id=prices["Minutes"]))
    metered = next(item for item in asked.view.items if item.meter_id)
    await desk.house.use(MIDDLE + HOUR / 60, "10")
    await desk.house.use(MIDDLE - HOUR, "5")
    await desk.house.advance(MIDDLE + DAY)
    await desk.change(made.row.id, ItemChange(metered.id, remove=True))
    await desk.house.use(MIDDLE + DAY + HOUR / 60, "100")
    await desk.house.advance(utc(2024, 5, 2))
    assert await desk.lines("period", utc(2024, 5, 1)) == [("Minutes", 1_00), ("Fee", 30_00)]
    assert not await desk.lines("change")


async def test_without_proration_the_new_price_counts_from_the_next_period(
    databases: Databases,
) -> None:
    desk = await desk_of(databases)
    made = await desk.subscribe()
    await desk.house.advance(MIDDLE)
    change = ItemChange(made.items[0].id, quantity="3")
    await desk.change(made.row.id, change, proration=Proration.NONE)
    await desk.house.advance(utc(2024, 5, 2))
    assert await desk.lines("period") == [("Fee", 90_00)]
    assert not await desk.lines("change")


async def test_a_proration_for_the_next_invoice_waits_there(databases: Databases) -> None:
    desk = await desk_of(databases)
    made = await desk.subscribe()
    await desk.house.advance(MIDDLE)
    change = ItemChange(made.items[0].id, quantity="3")
    await desk.change(made.row.id, change, proration=Proration.NEXT_INVOICE)
    await desk.house.advance(utc(2024, 5, 2))
    assert await desk.lines("period") == [
        ("Fee: unused time", -15_00),
        ("Fee: remaining time", 45_00),
        ("Fee", 90_00),
    ]
    assert not await desk.lines("change")


async def test_wrong_changes_are_refused_with_the_reason(databases: Databases) -> None:
    desk = await desk_of(databases, fee="30.00", per_minute="0.10")
    made = await desk.subscribe()
    prices = await desk.prices()
    fee, minutes = sorted(made.items, key=lambda item: item.meter_id is not None)
    wrong: list[tuple[list[ItemChange], type[BillingError]]] = [
        ([ItemChange(made.row.id, quantity="1")], ItemNotFound),
        ([ItemChange(fee.id, made.row.id)], PriceNotFound),
        ([ItemChange(fee.id, prices["Minutes"])], Invalid),
        ([ItemChange(fee.id)], Invalid),
        ([ItemChange()], Invalid),
        ([ItemChange(fee.id, quantity="-1")], Invalid),
        ([ItemChange(minutes.id, quantity="2")], Invalid),
        ([ItemChange(fee.id, quantity="2", remove=True)], Invalid),
        ([ItemChange(fee.id, quantity="2"), ItemChange(fee.id, quantity="3")], Invalid),
        ([ItemChange(fee.id, remove=True), ItemChange(minutes.id, remove=True)], Invalid),
        ([ItemChange(price_id=prices["Fee"])], Invalid),
    ]
    for items, error in wrong:
        with pytest.raises(error):
            await desk.change(made.row.id, *items)
    dear = await desk.supersede("Minutes", unit_amount="1.00")
    with pytest.raises(MeterAlreadyPriced):
        await desk.change(made.row.id, ItemChange(price_id=dear))
    with pytest.raises(Invalid):
        await desk.cancel(made.row.id, Later(START - DAY))


async def test_what_was_used_behind_an_end_shortly_before_a_boundary_has_no_owner(
    databases: Databases,
) -> None:
    """The period behind the boundary exists ahead, and the record is folded into it when it goes."""
    desk = await desk_of(databases, per_minute="0.10")
    made = await desk.subscribe()
    end = utc(2024, 5, 1)
    await desk.house.advance(end - timedelta(minutes=2))
    await desk.house.use(end - HOUR, "10")
    await desk.house.use(end + timedelta(minutes=2), "7")
    await desk.house.deliver()
    assert (await desk.owned())[-1] == (end + timedelta(minutes=2), end)
    await desk.cancel(made.row.id)
    await desk.house.advance(end + DAY)
    assert await desk.lines("final") == [("Minutes", 1_00)]
    assert (await desk.owned())[-1] == (end + timedelta(minutes=2), None)


async def test_an_item_that_is_added_in_a_trial_has_no_usage_before_it(
    databases: Databases,
) -> None:
    desk = await desk_of(databases, fee="30.00", per_minute="0.10")
    made = await desk.subscribe(items={"Fee": "1"}, trial_days=14)
    await desk.house.advance(START + DAY)
    prices = await desk.prices()
    await desk.change(made.row.id, ItemChange(price_id=prices["Minutes"]))
    async with desk.house.databases.api.transaction(desk.house.tenant_id) as tx:
        await move_subscription(tx, desk.asking(made.row.id), SubscriptionAction.ACTIVATE)
    starts = [start for start, _, _, _ in await desk.usage_periods()]
    assert START not in starts


async def test_usage_that_waits_unassigned_is_found_by_each_period_that_a_late_start_catches_up(
    databases: Databases,
) -> None:
    desk = await desk_of(databases, fee="1.00")
    await desk.house.plan("daily", per_minute="0.10", interval="day")
    await desk.house.advance(MIDDLE)
    for days in range(1, 6):
        await desk.house.use(MIDDLE - DAY * days + HOUR, "10")
    await desk.house.deliver()
    assert {start for _, start in await desk.owned()} == {None}
    await desk.subscribe(plan="daily", start_at=MIDDLE - DAY * 5)
    await desk.house.deliver()
    await desk.house.advance(MIDDLE + DAY)
    assert sum(amount for _, amount in await desk.lines("period")) == 5_00


async def test_the_invoice_ahead_has_no_fee_for_time_behind_a_scheduled_end(
    databases: Databases,
) -> None:
    desk = await desk_of(databases, fee="30.00", per_minute="0.10")
    made = await desk.subscribe()
    await desk.house.advance(MIDDLE)
    await desk.house.use(MIDDLE - HOUR, "10")
    await desk.house.deliver()
    await desk.cancel(made.row.id, Later())
    house = desk.house
    async with house.databases.api.transaction(house.tenant_id, snapshot=True) as tx:
        ahead = await preview_subscription(
            tx, house.tenant_id, made.row.id, Ahead.NEXT_BOUNDARY, now=house.now
        )
    assert [line.amount.minor_units for line in ahead.lines] == [1_00]
    await house.advance(utc(2024, 5, 2))
    assert await desk.lines("final") == [("Minutes", 1_00)]
