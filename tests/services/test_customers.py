"""Customers: an external id names one customer of its tenant, for ever."""

from __future__ import annotations

import asyncio

import pytest
from queries.models import Customer

from billing.domain.errors import AlreadyExists, InvalidTimeZone
from billing.runtime.ids import new_id
from billing.services.customers import (
    CustomerNotFound,
    NewCustomer,
    create_customer,
    get_customer,
    list_customers,
)
from tests.conftest import Databases
from tests.driver import Driver, house_of, utc


@pytest.fixture
async def house(databases: Databases) -> Driver:
    return await house_of(databases)


async def test_a_customer_is_found_by_either_id_and_takes_its_tenants_zone(house: Driver) -> None:
    made = await _create(house, NewCustomer("UA", "United", ""))
    assert made.time_zone == "UTC"
    async with house.databases.api.transaction(house.tenant_id) as tx:
        by_id = await get_customer(tx, house.tenant_id, customer_id=made.id, external_id="")
        by_name = await get_customer(tx, house.tenant_id, customer_id=None, external_id="UA")
    assert by_id == by_name == made


async def test_an_external_id_is_taken_once_however_many_ask(house: Driver) -> None:
    made = await asyncio.gather(
        *(_create(house, NewCustomer("UA", str(n), "UTC")) for n in range(8)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in made if isinstance(outcome, AlreadyExists)]
    assert len(refused) == 7
    assert {tuple(error.metadata.items()) for error in refused} == {
        (("kind", "customer"), ("key", "UA"))
    }
    told = "SELECT count(*) FROM billing_events WHERE subject = 'customer.created'"
    assert await house.value(told) == 1


async def test_customers_without_an_external_id_do_not_collide(house: Driver) -> None:
    made = {(await _create(house, NewCustomer("", "x", "UTC"))).id for _ in range(3)}
    assert len(made) == 3


async def test_a_customer_of_another_tenant_is_not_found(house: Driver) -> None:
    made = await _create(house, NewCustomer("UA", "United", "UTC"))
    other = await house_of(house.databases)
    for customer_id, external_id in ((made.id, ""), (None, "UA"), (new_id(house.now), "")):
        with pytest.raises(CustomerNotFound):
            # As a worker, whom row-level security does not bind: the statement itself asks for the tenant.
            async with house.databases.worker.transaction() as tx:
                await get_customer(
                    tx, other.tenant_id, customer_id=customer_id, external_id=external_id
                )


async def test_a_zone_that_nobody_knows_makes_no_customer(house: Driver) -> None:
    with pytest.raises(InvalidTimeZone):
        await _create(house, NewCustomer("UA", "United", "Mars/Olympus"))
    assert await house.value("SELECT count(*) FROM customers") == 0


async def test_a_customer_is_made_in_business_time(databases: Databases) -> None:
    house = await house_of(databases, utc(2024, 2, 29))
    assert (await _create(house, NewCustomer("UA", "United", ""))).created_at == utc(2024, 2, 29)


async def _create(house: Driver, draft: NewCustomer) -> Customer:
    async with house.databases.api.transaction(house.tenant_id) as tx:
        return await create_customer(tx, house.tenant_id, draft, house.cause(), now=house.now)


async def test_customers_are_listed_newest_first_page_by_page(databases: Databases) -> None:
    house = await house_of(databases)
    other = await house_of(databases)
    await other.customer("elsewhere")
    made = [await house.customer(f"C{n}") for n in range(3)]
    async with databases.api.transaction(house.tenant_id) as tx:
        first = await list_customers(tx, house.tenant_id, before=None, limit=2)
        second = await list_customers(tx, house.tenant_id, before=first[-1].id, limit=2)
    assert [row.id for row in [*first, *second]] == made[::-1]
