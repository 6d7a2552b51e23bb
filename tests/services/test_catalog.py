"""The catalog: what stands in it can be rated, and a price is written once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from uuid import UUID

import pytest
from queries.models import Price

from billing.domain.errors import (
    AlreadyExists,
    BillingError,
    CurrencyMismatch,
    Invalid,
    InvalidDecimal,
    InvalidPrice,
    UnknownCurrency,
)
from billing.domain.pricing import BillingTiming
from billing.runtime.ids import new_id
from billing.services import catalog
from billing.services.catalog import (
    MeterAlreadyPriced,
    MeterArchived,
    MeterNotFound,
    NewPrice,
    PlanNotFound,
)
from billing.services.prices import Successor, archive_price, supersede_price
from tests.conftest import Databases
from tests.driver import Driver, house_of

TIERS = [{"up_to": "100", "unit_amount": "0"}, {"up_to": "inf", "unit_amount": "0.10"}]


@pytest.fixture
async def house(databases: Databases) -> Driver:
    house = await house_of(databases)
    await house.meter("minutes")
    await house.plan("basic")
    return house


def draft(
    model: str = "per_unit",
    config: Mapping[str, object] | None = None,
    *,
    meter_key: str = "minutes",
    currency: str = "",
    timing: BillingTiming | None = None,
) -> NewPrice:
    return NewPrice(
        "Minutes", meter_key, currency, model, config or {"unit_amount": "0.10"}, timing
    )


async def add(house: Driver, price: NewPrice) -> Price:
    async with house.databases.api.transaction(house.tenant_id) as tx:
        plan, _ = await catalog.get_plan(tx, house.tenant_id, key="basic")
        return await catalog.create_price(
            tx, house.tenant_id, plan, price, house.cause(), now=house.now
        )


async def test_a_plan_has_one_price_for_a_meter_at_a_time(house: Driver) -> None:
    answers = await asyncio.gather(*(add(house, draft()) for _ in range(3)), return_exceptions=True)
    (first,) = [answer for answer in answers if isinstance(answer, Price)]
    assert sum(isinstance(answer, MeterAlreadyPriced) for answer in answers) == 2

    async with house.databases.api.transaction(house.tenant_id) as tx:
        dearer = Successor("", "per_unit", {"unit_amount": "0.20"})
        second, _ = await supersede_price(
            tx, house.tenant_id, first.id, dearer, house.cause(), now=house.now
        )
        await archive_price(tx, house.tenant_id, second.id, house.cause(), now=house.now)
    await add(house, draft())


async def test_a_plan_is_read_with_its_prices_in_the_order_they_were_made(house: Driver) -> None:
    made = [
        await add(house, draft()),
        await add(house, draft("flat", {"amount": "9.00"}, meter_key="")),
        await add(house, draft("flat", {"amount": "49.00"}, meter_key="")),
    ]
    async with house.databases.api.transaction(house.tenant_id) as tx:
        plan, prices = await catalog.get_plan(tx, house.tenant_id, key="basic")
        again, _ = await catalog.get_plan(tx, house.tenant_id, plan_id=plan.id)
    assert again == plan
    assert prices == made
    assert [price.billing_timing for price in prices] == [
        "in_arrears",
        "in_advance",
        "in_advance",
    ]
    assert {price.currency for price in prices} == {"USD"}
    assert json.loads(prices[0].config) == {"unit_amount": "0.1"}


@pytest.mark.parametrize(
    ("price", "error"),
    [
        (draft(currency="EUR"), CurrencyMismatch),
        (draft(meter_key="nothing"), MeterNotFound),
        (draft(meter_key=""), Invalid),
        (draft("flat", {"amount": "49"}), Invalid),
        (draft(config={"unit_amount": "-1"}), BillingError),
        (draft(config={"unit_amount": "1e3"}), InvalidDecimal),
        (draft(config={"unit_amount": "0.1234567890123"}), InvalidDecimal),
        (draft(config={"unit_amount": "NaN"}), InvalidDecimal),
        (draft("graduated", {"tiers": TIERS[::-1]}), InvalidPrice),
        (draft("graduated", {"tiers": TIERS[:1]}), InvalidPrice),
    ],
)
async def test_a_price_that_could_not_be_rated_is_refused(
    house: Driver, price: NewPrice, error: type[BillingError]
) -> None:
    with pytest.raises(error):
        await add(house, price)
    assert await house.value("SELECT count(*) FROM prices") == 0
    assert await _told(house, "price.created") == 0


async def test_a_metered_price_is_in_arrears_and_nothing_else(house: Driver) -> None:
    with pytest.raises(InvalidPrice, match="billed in arrears"):
        await add(house, draft(timing=BillingTiming.IN_ADVANCE))
    assert (await add(house, draft())).billing_timing == BillingTiming.IN_ARREARS
    fee = draft("flat", {"amount": "49.00"}, meter_key="", timing=BillingTiming.IN_ARREARS)
    assert (await add(house, fee)).billing_timing == BillingTiming.IN_ARREARS


async def test_an_archived_meter_takes_no_new_price(house: Driver) -> None:
    await house.execute("UPDATE meters SET archived_at = now()")
    with pytest.raises(MeterArchived):
        await add(house, draft())


async def test_keys_are_taken_once_per_tenant(house: Driver) -> None:
    with pytest.raises(AlreadyExists) as meter:
        async with house.databases.api.transaction(house.tenant_id) as tx:
            again = catalog.NewMeter("minutes", "", "sum")
            await catalog.create_meter(tx, house.tenant_id, again, house.cause(), now=house.now)
    assert meter.value.metadata == {"kind": "meter", "key": "minutes"}
    with pytest.raises(AlreadyExists) as plan:
        async with house.databases.api.transaction(house.tenant_id) as tx:
            other = catalog.NewPlan("basic", "", "EUR", "year")
            await catalog.create_plan(tx, house.tenant_id, other, house.cause(), now=house.now)
    assert plan.value.metadata == {"kind": "plan", "key": "basic"}
    assert (await _told(house, "meter.created"), await _told(house, "plan.created")) == (1, 1)


@pytest.mark.parametrize("currency", ["XXX", "ZZZ", "usd", "DEM"])
async def test_a_currency_that_is_not_in_use_makes_no_plan(house: Driver, currency: str) -> None:
    with pytest.raises(UnknownCurrency):
        async with house.databases.api.transaction(house.tenant_id) as tx:
            plan = catalog.NewPlan("other", "", currency, "month")
            await catalog.create_plan(tx, house.tenant_id, plan, house.cause(), now=house.now)


async def test_what_another_tenant_has_is_not_found_even_by_a_worker(house: Driver) -> None:
    other = await house_of(house.databases)
    meter: UUID = await house.value("SELECT id FROM meters")
    plan: UUID = await house.value("SELECT id FROM plans")
    async with house.databases.worker.transaction() as tx:
        for identity, key in ((meter, ""), (None, "minutes"), (new_id(house.now), "")):
            with pytest.raises(MeterNotFound):
                await catalog.get_meter(tx, other.tenant_id, meter_id=identity, key=key)
        for identity, key in ((plan, ""), (None, "basic"), (new_id(house.now), "")):
            with pytest.raises(PlanNotFound):
                await catalog.get_plan(tx, other.tenant_id, plan_id=identity, key=key)


async def _told(house: Driver, subject: str) -> int:
    count: int = await house.value(
        "SELECT count(*) FROM billing_events WHERE subject = $1", subject
    )
    return count
