"""A threshold is told once in a billing period, by what was used, whatever becomes of the subscription meanwhile."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from tollway.event.v1 import event_pb2
from tollway.usage.v1.usage_events_pb2 import UsageThresholdCrossed

from billing.services import catalog
from billing.services.rating import RatingSettings
from billing.services.subscription_edits import ItemChange
from billing.services.usage_thresholds import NewThreshold, ThresholdValue, create_threshold
from tests.conftest import Databases
from tests.desk import Desk
from tests.driver import DAY, HOUR, house_of, utc
from workers.rating import RatingWorker

START = utc(2024, 5, 1)


async def desk_of(
    databases: Databases, threshold: str, config: dict[str, Any], aggregation: str = "sum"
) -> Desk:
    """A plan of minutes with these numbers, and a threshold on them."""
    house = await house_of(databases, START)
    await house.customer()
    await house.plan(fee="1.00")
    async with house.databases.api.transaction(house.tenant_id) as tx:
        meter = catalog.NewMeter("minutes", "", aggregation)
        await catalog.create_meter(tx, house.tenant_id, meter, house.cause(), now=house.now)
    await add_price(Desk(house), config)
    async with house.databases.api.transaction(house.tenant_id) as tx:
        draft = NewThreshold(None, "UA", "minutes", ThresholdValue(threshold), "")
        await create_threshold(tx, house.tenant_id, draft, now=house.now)
    return Desk(house)


async def add_price(desk: Desk, config: dict[str, Any]) -> Any:
    house = desk.house
    await house.execute("UPDATE prices SET archived_at = $1 WHERE meter_id IS NOT NULL", START)
    draft = catalog.NewPrice("Minutes", "minutes", "", "per_unit", config, None)
    async with house.databases.api.transaction(house.tenant_id) as tx:
        plan, _ = await catalog.get_plan(tx, house.tenant_id, key="plan")
        return await catalog.create_price(
            tx, house.tenant_id, plan, draft, house.cause(), now=house.now
        )


async def use(desk: Desk, at: datetime, quantity: str) -> None:
    await desk.house.use(at, quantity)
    await rate(desk)


async def rate(desk: Desk) -> None:
    await desk.house.deliver()
    at_once = RatingSettings(interval_s=0.0)
    await RatingWorker(desk.house.databases.worker, desk.house.databases.clock, at_once).step()


async def crossed(desk: Desk) -> list[tuple[datetime, str]]:
    """The beginnings of the periods that were told, with what was reached."""
    rows = await desk.house.rows(
        "SELECT envelope FROM billing_events WHERE subject = 'usage.threshold.crossed' ORDER BY id"
    )
    found = []
    for row in rows:
        payload = UsageThresholdCrossed()
        assert event_pb2.Event.FromString(row["envelope"]).data.Unpack(payload)
        found.append((payload.period.start.ToDatetime(START.tzinfo), payload.reached_quantity))
    return found


async def test_a_period_that_a_cancellation_ends_is_not_told_again(databases: Databases) -> None:
    desk = await desk_of(databases, "10", {"unit_amount": "0.10"})
    made = await desk.subscribe()
    await desk.house.advance(START + 9 * DAY)
    await use(desk, START + 2 * DAY, "12")
    assert await crossed(desk) == [(START, "12")]
    await desk.cancel(made.row.id)
    await use(desk, START + 3 * DAY, "5")
    assert await desk.house.value("SELECT sum(quantity)::int FROM charges") == 17
    assert await crossed(desk) == [(START, "12")]


async def test_a_period_that_a_change_of_interval_ends_is_not_told_again_and_the_next_one_is(
    databases: Databases,
) -> None:
    desk = await desk_of(databases, "10", {"unit_amount": "0.10"})
    await desk.house.plan("weekly", per_minute="0.20", interval="week")
    made = await desk.subscribe()
    await desk.house.advance(START + 9 * DAY)
    await use(desk, START + 2 * DAY, "12")
    plan = await desk.house.value("SELECT id FROM plans WHERE key = 'weekly'")
    items = {item.meter_id: item for item in made.items}
    weekly = (await desk.prices("weekly"))["Minutes"]
    meter = next(item for item in items if item)
    await desk.change(
        made.row.id,
        ItemChange(items[meter].id, weekly),
        ItemChange(items[None].id, remove=True),
        plan_id=plan,
    )
    await desk.house.deliver()
    await use(desk, START + 3 * DAY, "5")
    assert await crossed(desk) == [(START, "12")]
    await use(desk, START + 9 * DAY, "11")
    assert [reached for _, reached in await crossed(desk)] == ["12", "11"]


async def test_a_threshold_is_compared_with_what_was_used_before_the_price_rounds_it(
    databases: Databases,
) -> None:
    hours = {"mode": "up", "decimals": 0, "divide_by": "60"}
    desk = await desk_of(databases, "100", {"unit_amount": "3", "quantity_rounding": hours})
    await desk.subscribe()
    await desk.house.advance(START + 9 * DAY)
    await use(desk, START + 2 * DAY, "99.5")
    assert await crossed(desk) == []
    await use(desk, START + 3 * DAY, "1")
    assert await crossed(desk) == [(START, "100.5")]
    assert await desk.house.value("SELECT quantity::int FROM charges") == 2


@pytest.mark.parametrize(("aggregation", "told"), [("sum", [(START, "20")]), ("latest", [])])
async def test_pieces_of_a_period_add_up_but_for_levels_of_which_the_highest_counts(
    databases: Databases, aggregation: str, told: list[tuple[datetime, str]]
) -> None:
    desk = await desk_of(databases, "15", {"unit_amount": "0.10"}, aggregation)
    made = await desk.subscribe(items={"Fee": "1", "Minutes": ""})
    await desk.house.advance(START + 9 * DAY)
    await use(desk, START + 2 * DAY, "10")
    new = await add_price(desk, {"unit_amount": "0.20"})
    item = next(item.id for item in made.items if item.meter_id)
    await desk.change(made.row.id, ItemChange(item, new.id))
    await desk.house.advance(START + 12 * DAY)
    await use(desk, START + 11 * DAY, "10")
    assert await crossed(desk) == told


async def test_a_trial_is_told_once_though_its_price_changes_and_the_first_period_by_itself(
    databases: Databases,
) -> None:
    desk = await desk_of(databases, "10", {"unit_amount": "0.10"})
    made = await desk.subscribe(items={"Fee": "1", "Minutes": ""}, trial_days=14)
    await desk.house.advance(START + 5 * DAY)
    await use(desk, START + 2 * DAY, "10")
    new = await add_price(desk, {"unit_amount": "0.20"})
    item = next(item.id for item in made.items if item.meter_id)
    await desk.change(made.row.id, ItemChange(item, new.id))
    await desk.house.advance(START + 7 * DAY)
    await use(desk, START + 6 * DAY, "10")
    assert await crossed(desk) == [(START, "10")]
    await desk.house.advance(START + 16 * DAY)
    await use(desk, START + 15 * DAY, "10")
    assert await crossed(desk) == [(START, "10"), (START + 14 * DAY, "10")]
    await desk.house.advance(START + 44 * DAY + HOUR)
    assert len(await crossed(desk)) == 2
