"""Creating subscriptions: what is refused, what is made, and that usage which follows at once has a place."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from billing.domain.errors import AlreadyExists, BillingError, Invalid, InvalidDecimal
from billing.runtime.ids import new_id
from billing.services.catalog import MeterAlreadyPriced, PlanNotFound
from billing.services.customers import CustomerNotFound
from billing.services.prices import PriceNotFound, PriceNotInPlan
from billing.services.subscription_edits import ItemChange
from billing.services.subscription_requests import Later
from billing.services.subscriptions import (
    NewItem,
    PlanWithoutPrices,
    StartTooOld,
    SubscriptionNotFound,
    get_subscription,
)
from billing.services.usage_assignment import require_subscription
from billing.services.usage_batch import UsageBatch
from billing.services.usage_checks import instant_us
from billing.services.usage_ingest import record_usage
from tests.conftest import Databases
from tests.desk import Desk
from tests.driver import DAY, Driver, house_of, subscription_text, utc

NOW = utc(2024, 5, 1)


@pytest.fixture
async def house(databases: Databases) -> Driver:
    """A tenant whose clock stands at NOW, with a customer and a plan of a fee and a metered price."""
    house = await house_of(databases, NOW)
    await house.customer("UA")
    await house.plan(fee="49.00", per_minute="0.10")
    return house


async def test_a_subscription_takes_all_prices_of_its_plan_and_tells_of_it(house: Driver) -> None:
    made = await house.subscribe(external_id="sub-UA")

    assert made.row.status == "created"
    assert [item.quantity for item in made.items] == [1, 1]
    assert made.row.start_at == NOW
    assert await house.subjects(subscription_text(made)) == ["subscription.created"]
    async with house.databases.api.transaction(house.tenant_id) as tx:
        found = await get_subscription(tx, house.tenant_id, external_id="sub-UA")
    assert found == made


async def test_the_first_usage_period_and_the_next_are_there_at_once(house: Driver) -> None:
    await house.subscribe()
    await house.use(NOW + timedelta(minutes=1), "3")

    # The usage is folded before anybody has seen the creation.
    await house.deliver(["usage"])

    periods = await house.rows("SELECT * FROM usage_periods ORDER BY period_start")
    assert [(row["period_start"], row["bill_boundary"]) for row in periods] == [
        (NOW, utc(2024, 6, 1)),
        (utc(2024, 6, 1), utc(2024, 7, 1)),
    ]
    assert await house.value("SELECT count(*) FROM usage_records WHERE item_id IS NOT NULL") == 1


async def test_a_start_that_has_come_is_the_consumers_and_a_later_one_the_schedulers(
    house: Driver,
) -> None:
    now = await house.subscribe()
    await house.customer("LH")
    later = await house.subscribe("LH", start_at=NOW + 2 * DAY)
    await house.deliver()
    states = "SELECT status FROM subscriptions ORDER BY id"
    assert [row["status"] for row in await house.rows(states)] == ["active", "created"]

    await house.advance(NOW + 3 * DAY)

    assert [row["status"] for row in await house.rows(states)] == ["active", "active"]
    started = await house.subjects(subscription_text(later))
    assert started == await house.subjects(subscription_text(now))
    assert await house.value("SELECT anchor_at FROM subscriptions ORDER BY id DESC LIMIT 1") == (
        NOW + 2 * DAY
    )


async def test_a_trial_lasts_days_of_the_customers_calendar(databases: Databases) -> None:
    house = await house_of(databases, utc(2024, 3, 1, 17))
    await house.customer("UA", "America/New_York")
    await house.plan(fee="49.00")

    made = await house.subscribe(trial_days=14)

    # Noon in New York, before and after the clocks changed.
    assert made.row.trial_end_at == utc(2024, 3, 15, 16)


@pytest.mark.parametrize(
    ("draft", "error"),
    [
        ({"customer": "nobody"}, CustomerNotFound),
        ({"plan": "nothing"}, PlanNotFound),
        ({"plan": "empty"}, PlanWithoutPrices),
        ({"items": [NewItem(new_id(NOW))]}, PriceNotFound),
        ({"start_at": NOW - 36 * DAY}, StartTooOld),
        ({"start_at": NOW + 731 * DAY}, Invalid),
        ({"trial_days": 731}, Invalid),
        ({"trial_days": -1}, Invalid),
    ],
)
async def test_what_cannot_be_subscribed_to_is_refused(
    house: Driver, draft: dict[str, Any], error: type[BillingError]
) -> None:
    await house.plan("empty")
    with pytest.raises(error):
        await house.subscribe(**draft)
    assert await house.value("SELECT count(*) FROM subscriptions") == 0


async def test_a_price_of_another_plan_is_refused_with_that_plans_key(house: Driver) -> None:
    await house.plan("seats", fee="1.00")
    price = await house.value("SELECT id FROM prices ORDER BY id DESC LIMIT 1")
    with pytest.raises(PriceNotInPlan, match="a price of the plan 'seats'") as raised:
        await house.subscribe(items=[NewItem(price)])
    assert raised.value.metadata["plan"] == "seats"


async def test_quantities_are_decimals_and_belong_to_fees(house: Driver) -> None:
    fee, minutes = [row["id"] for row in await house.rows("SELECT id FROM prices ORDER BY id")]
    for wrong in ("many", "1e3", "-1"):
        with pytest.raises((InvalidDecimal, Invalid)):
            await house.subscribe(items=[NewItem(fee, wrong)])
    with pytest.raises(Invalid, match="metered"):
        await house.subscribe(items=[NewItem(minutes, "2")])
    with pytest.raises(Invalid, match="second time"):
        await house.subscribe(items=[NewItem(fee), NewItem(fee)])

    made = await house.subscribe(items=[NewItem(fee, "2.5")])

    await house.deliver()
    await house.advance(NOW + timedelta(hours=2))
    (invoice,) = await house.invoices()
    assert [str(item.quantity) for item in made.items] == ["2.5"]
    assert invoice["total"] == 12250


async def test_an_external_id_names_one_subscription(house: Driver) -> None:
    await house.subscribe(external_id="one")
    await house.customer("LH")
    with pytest.raises(AlreadyExists) as raised:
        await house.subscribe("LH", external_id="one")
    assert raised.value.metadata == {"kind": "subscription", "key": "one"}


async def test_a_meter_is_priced_once_per_customer_at_any_instant(house: Driver) -> None:
    first = await house.subscribe()
    await house.plan("other", per_minute="0.20")
    with pytest.raises(MeterAlreadyPriced) as raised:
        await house.subscribe(plan="other", start_at=NOW + 100 * DAY)
    assert raised.value.metadata == {
        "meter": "minutes",
        "subscription": subscription_text(first),
    }
    # A plan without a metered price stands beside it, and another customer is another matter.
    await house.plan("seats", fee="1.00")
    await house.subscribe(plan="seats")
    await house.customer("LH")
    await house.subscribe("LH", plan="other")


async def test_a_meter_is_priced_by_several_subscriptions_that_demand_to_be_named(
    house: Driver,
) -> None:
    first = await house.subscribe()
    await house.plan("other", per_minute="0.20")
    async with house.databases.api.transaction(house.tenant_id) as tx:
        assert await require_subscription(tx, first.row) == 1
    second = await house.subscribe(plan="other")
    with pytest.raises(MeterAlreadyPriced) as raised:
        await house.subscribe(plan="other")
    assert raised.value.metadata["subscription"] == subscription_text(second)


async def test_an_item_can_demand_from_its_making_that_usage_names_the_subscription(
    house: Driver,
) -> None:
    price = await house.value("SELECT id FROM prices WHERE meter_id IS NOT NULL")
    first = await house.subscribe(items=[NewItem(price, subscription_required=True)])
    second = await house.subscribe(items=[NewItem(price, subscription_required=True)])
    assert [item.subscription_required for item in (*first.items, *second.items)] == [True, True]
    batch = UsageBatch(
        ["named", "unnamed"],
        ["minutes"] * 2,
        [""] * 2,
        ["UA"] * 2,
        [instant_us(NOW)] * 2,
        ["1"] * 2,
        subscription_ids=[subscription_text(second), ""],
    )
    async with house.databases.api.transaction(house.tenant_id) as tx:
        answer = await record_usage(tx, house.tenant_id, batch, house.cause(), now=house.now)
    assert {place: verdict.reason for place, verdict in answer.verdicts.items()} == {
        1: "SUBSCRIPTION_REQUIRED"
    }
    await house.deliver()
    owner = "SELECT i.subscription_id FROM usage_records r JOIN subscription_items i ON i.id = r.item_id"
    assert await house.value(owner) == second.row.id


async def test_only_a_metered_item_can_demand_to_be_named(house: Driver) -> None:
    await house.plan("seats", fee="1.00")
    price = await house.value("SELECT id FROM prices WHERE meter_id IS NULL ORDER BY id DESC")
    with pytest.raises(Invalid, match="only the usage of a metered price"):
        await house.subscribe(plan="seats", items=[NewItem(price, subscription_required=True)])


async def test_of_two_subscriptions_at_once_that_price_one_meter_one_is_made(
    house: Driver,
) -> None:
    answers = await asyncio.gather(*(house.subscribe() for _ in range(6)), return_exceptions=True)

    refused = [answer for answer in answers if isinstance(answer, MeterAlreadyPriced)]
    assert len(refused) == 5
    assert await house.value("SELECT count(*) FROM subscriptions") == 1


async def test_a_tenant_sees_no_subscription_of_another(
    house: Driver, databases: Databases
) -> None:
    made = await house.subscribe(external_id="mine")
    other = await house_of(databases, NOW)
    async with databases.api.transaction(other.tenant_id) as tx:
        with pytest.raises(SubscriptionNotFound):
            await get_subscription(tx, other.tenant_id, subscription_id=made.row.id)
        with pytest.raises(SubscriptionNotFound):
            await get_subscription(tx, house.tenant_id, subscription_id=made.row.id)


async def test_an_item_that_is_added_can_demand_that_usage_names_the_subscription(
    house: Driver,
) -> None:
    """So a second subscription of a customer comes to price a meter that the first prices."""
    price = await house.value("SELECT id FROM prices WHERE meter_id IS NOT NULL")
    first = await house.subscribe(items=[NewItem(price, subscription_required=True)])
    await house.plan("both", fee="1.00", per_minute="0.30")
    desk = Desk(house)
    second = await desk.subscribe(plan="both", items={"Fee": "1"})
    dear = (await desk.prices("both"))["Minutes"]
    await house.deliver()
    named = ItemChange(price_id=dear, subscription_required=True)
    later = ItemChange(second.items[0].id, quantity="2", subscription_required=True)
    with pytest.raises(Invalid, match="is said when an item is added"):
        await desk.change(second.row.id, later)
    with pytest.raises(Invalid, match="only the usage of a metered price"):
        seats = ItemChange(
            price_id=await desk.price("Seats", plan="both", amount="2.00"),
            subscription_required=True,
        )
        await desk.change(second.row.id, seats)

    asked = await desk.change(second.row.id, named)

    added = next(item for item in asked.view.items if item.meter_id)
    assert added.subscription_required
    batch = UsageBatch(
        ["for-first", "for-second", "for-none"],
        ["minutes"] * 3,
        [""] * 3,
        ["UA"] * 3,
        [instant_us(NOW)] * 3,
        ["1"] * 3,
        subscription_ids=[subscription_text(first), subscription_text(second), ""],
    )
    async with house.databases.api.transaction(house.tenant_id) as tx:
        answer = await record_usage(tx, house.tenant_id, batch, house.cause(), now=house.now)
    assert {place: one.reason for place, one in answer.verdicts.items()} == {
        2: "SUBSCRIPTION_REQUIRED"
    }
    await house.deliver()
    owners = await house.rows(
        "SELECT r.idempotency_key, i.subscription_id FROM usage_records r"
        " JOIN subscription_items i ON i.id = r.item_id ORDER BY 1"
    )
    assert [tuple(row) for row in owners] == [
        ("for-first", first.row.id),
        ("for-second", second.row.id),
    ]


async def test_an_item_that_demands_to_be_named_can_be_added_later(house: Driver) -> None:
    """What waits for the period's end is stored and read again."""
    await house.plan("both", fee="1.00", per_minute="0.30")
    desk = Desk(house)
    made = await desk.subscribe(plan="both", items={"Fee": "1"})
    named = ItemChange(price_id=(await desk.prices("both"))["Minutes"], subscription_required=True)
    await desk.change(made.row.id, named, later=Later(NOW + 2 * DAY))
    await house.advance(NOW + 3 * DAY)
    required = "SELECT subscription_required FROM subscription_items WHERE meter_id IS NOT NULL"
    assert [row[0] for row in await house.rows(required)] == [True]
