"""Plans that prorate by day: fees are cut at the customer's midnights, usage at the very instant."""

from __future__ import annotations

from datetime import timedelta

from billing.services.subscription_edits import ItemChange
from billing.services.subscription_requests import Migration
from tests.conftest import Databases
from tests.desk import Desk
from tests.driver import HOUR, house_of, utc

START = utc(2024, 6, 30, 22)  # midnight in Vienna; July has 31 days
END = utc(2024, 7, 31, 22)
NOON = timedelta(hours=12, minutes=30)


async def desk_of(databases: Databases) -> Desk:
    """A tenant whose plan prorates by day, with a customer in Vienna."""
    house = await house_of(databases, START)
    await house.customer("UA", "Europe/Vienna")
    await house.plan(fee="31.00", per_minute="0.10")
    await house.execute("UPDATE plans SET granularity = 'day'")
    return Desk(house)


async def test_the_day_of_a_change_belongs_to_the_new_price_and_the_day_of_the_end_is_billed(
    databases: Databases,
) -> None:
    desk = await desk_of(databases)
    made = await desk.subscribe(items={"Fee": "1", "Minutes": ""})
    fee = next(item.id for item in made.items if item.meter_id is None)
    changed = utc(2024, 7, 14, 22) + NOON  # the 15th: 17 days are left, itself among them
    await desk.house.advance(changed)
    await desk.change(made.row.id, ItemChange(fee, quantity="2"))
    ended = utc(2024, 7, 19, 22) + NOON  # the 20th: 11 days are left, itself not among them
    await desk.house.advance(ended)
    await desk.cancel(made.row.id)
    await desk.house.advance(END)

    assert await desk.lines("activation") == [("Fee", 31_00)]
    assert [amount for _, amount in await desk.lines("change")] == [-17_00, 34_00]
    assert [amount for _, amount in await desk.lines("final")] == [0, -22_00]  # no usage


async def test_usage_is_cut_at_the_instant_of_a_change_also_where_fees_have_days(
    databases: Databases,
) -> None:
    desk = await desk_of(databases)
    made = await desk.subscribe(items={"Fee": "1", "Minutes": ""})
    minutes = next(item.id for item in made.items if item.meter_id is not None)
    changed = utc(2024, 7, 14, 22) + NOON
    await desk.house.advance(changed)
    dear = await desk.supersede("Minutes", unit_amount="1.00")
    await desk.change(made.row.id, ItemChange(minutes, dear))
    await desk.house.use(changed - HOUR, "10")
    await desk.house.use(changed, "7")
    await desk.house.deliver()

    assert [period[:2] for period in (await desk.usage_periods())[:2]] == [
        (START, changed),
        (changed, END),
    ]
    await desk.house.advance(END + 2 * HOUR)
    assert sorted(amount for _, amount in await desk.lines("period", END)) == [1_00, 7_00, 31_00]


async def test_a_day_that_was_changed_to_the_second_before_belongs_to_a_plan_by_day_once(
    databases: Databases,
) -> None:
    """More seats in the morning are charged to the second; the plan of the afternoon has the whole day."""
    house = await house_of(databases, START)
    await house.customer("UA", "Europe/Vienna")
    await house.plan(fee="31.00")
    await house.plan("daily", fee="62.00")
    await house.execute("UPDATE plans SET granularity = 'day' WHERE key = 'daily'")
    desk = Desk(house)
    made = await desk.subscribe(items={"Fee": "1"})
    midnight = utc(2024, 7, 14, 22)  # 17 days are left
    await house.advance(midnight + 6 * HOUR)
    for quantity in (
        "3",
        "2",
    ):  # at one instant: of the first of these nothing is left to give back
        await desk.change(made.row.id, ItemChange(made.items[0].id, quantity=quantity))
    await house.advance(midnight + 12 * HOUR)
    await desk.migrate(made.row.id, Migration(plan_key="daily"))
    await house.advance(END)

    morning = -16_75, 50_25, -50_25, 33_50  # 16 3/4 days given back, and charged twice
    # The night and morning of the first charge come back too, and all of the second one.
    assert [amount for _, amount in await desk.lines("change")] == [
        *morning,
        *(-25, -33_50, 2 * 34_00),
    ]


async def test_a_second_change_on_the_day_of_a_change_of_interval_has_the_whole_day(
    databases: Databases,
) -> None:
    """The first one charged the day from its midnight on, and all of that comes back."""
    house = await house_of(databases, START)
    await house.customer("UA", "Europe/Vienna")
    await house.plan(fee="31.00")
    await house.plan("weekly", fee="7.00", interval="week")
    await house.execute("UPDATE plans SET granularity = 'day'")
    desk = Desk(house)
    made = await desk.subscribe(items={"Fee": "1"})
    midnight = utc(
        2024, 7, 10, 22
    )  # a Thursday; weeks end on Mondays, as the subscription began on one
    await house.advance(midnight + 6 * HOUR)
    await desk.migrate(made.row.id, Migration(plan_key="weekly"))
    await house.advance(midnight + 12 * HOUR)
    await desk.change(made.row.id, ItemChange(made.items[0].id, quantity="2"))
    await house.advance(midnight + 18 * HOUR)
    assert [amount for _, amount in await desk.lines("change")] == [
        *(-21_00, 4_00),
        *(-4_00, 8_00),
    ]
