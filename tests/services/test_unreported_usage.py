"""Running charges that move without a record: a level that stands, and what a change or an end has cut."""

from __future__ import annotations

from datetime import datetime

from billing.services.charges import get_charges
from billing.services.subscription_edits import ItemChange
from billing.services.usage_thresholds import NewThreshold, ThresholdValue, create_threshold
from tests.conftest import Databases
from tests.desk import Desk
from tests.driver import DAY, utc
from tests.services.test_thresholds import START, add_price, crossed, desk_of, rate, use

JUNE, JULY, AUGUST = utc(2024, 6, 1), utc(2024, 7, 1), utc(2024, 8, 1)


async def charged(desk: Desk) -> dict[datetime, int]:
    """The running charges by the beginning of their usage period."""
    house = desk.house
    subscription = await house.value("SELECT id FROM subscriptions")
    async with house.databases.api.transaction(house.tenant_id) as tx:
        rows = (await get_charges(tx, house.tenant_id, subscription_id=subscription)).rows
    return {row.period_start: row.amount for row in rows}


async def a_level(databases: Databases) -> Desk:
    """20 units from the 10th of May on, at 1.00 for a full period."""
    desk = await desk_of(databases, "1000", {"unit_amount": "1.00"}, "weighted_sum")
    await desk.subscribe(items={"Fee": "1", "Minutes": ""})
    await desk.house.advance(START + 12 * DAY)
    await use(desk, START + 9 * DAY, "20")
    return desk


async def test_a_level_that_stands_is_charged_in_every_period_that_begins(
    databases: Databases,
) -> None:
    desk = await a_level(databases)
    assert (await charged(desk))[START] == 14_19
    await desk.house.advance(JULY + DAY)
    assert (await charged(desk))[JULY] == 20_00
    await desk.house.advance(AUGUST + DAY)
    assert await charged(desk) == {AUGUST: 20_00}
    assert ("Minutes", 20_00) in await desk.lines("period", AUGUST)


async def test_a_threshold_that_a_standing_level_reaches_is_told_when_its_period_has_begun(
    databases: Databases,
) -> None:
    desk = await a_level(databases)
    house = desk.house
    async with house.databases.api.transaction(house.tenant_id) as tx:
        draft = NewThreshold(None, "UA", "minutes", ThresholdValue("18"), "")
        await create_threshold(tx, house.tenant_id, draft, now=house.now)
    await use(desk, START + 10 * DAY, "1")
    assert await crossed(desk) == []
    await house.advance(JUNE + DAY)
    assert await crossed(desk) == [(JUNE, "21")]
    await house.advance(JULY + DAY)
    assert await crossed(desk) == [(JUNE, "21"), (JULY, "21")]


async def test_a_change_of_price_charges_both_pieces_of_a_level_at_once(
    databases: Databases,
) -> None:
    desk = await a_level(databases)
    dear = await add_price(desk, {"unit_amount": "2.00"})
    subscription = await desk.house.value("SELECT id FROM subscriptions")
    item = await desk.house.value("SELECT id FROM subscription_items WHERE meter_id IS NOT NULL")
    await desk.change(subscription, ItemChange(item, dear.id))
    await desk.house.advance(START + 13 * DAY)
    cut = START + 12 * DAY
    found = await charged(desk)
    # Three days of 31 at 20.00, and the 19 that are left at 40.00.
    assert (found[START], found[cut]) == (1_94, 24_52)
    await desk.house.advance(JUNE + DAY)
    assert await charged(desk) == {JUNE: 40_00}


async def test_a_cancellation_charges_what_was_used_until_then(databases: Databases) -> None:
    desk = await a_level(databases)
    await desk.cancel(await desk.house.value("SELECT id FROM subscriptions"))
    await rate(desk)
    assert await charged(desk) == {START: 1_94}
