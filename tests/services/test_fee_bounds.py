"""A flat price with a minimum or a maximum: the true-up is a line of its own, and a credit gives both back."""

from __future__ import annotations

from fractions import Fraction
from uuid import UUID

import pytest

from billing.services.invoice_line import LineKind
from billing.services.subscription_edits import ItemChange
from billing.services.subscriptions import SubscriptionView
from tests.conftest import Databases
from tests.desk import Desk
from tests.driver import DAY, house_of, utc
from tests.services.test_invoice_money import discount

START = utc(2024, 4, 1)  # April has 30 days
MIDDLE = utc(2024, 4, 16)


async def desk_of(databases: Databases, **numbers: str) -> tuple[Desk, UUID]:
    """A plan of seats with these numbers, and its customer."""
    house = await house_of(databases, START)
    customer = await house.customer()
    await house.plan()
    desk = Desk(house)
    await desk.price("Seats", **numbers)
    return desk, customer


async def seats(desk: Desk, quantity: str) -> SubscriptionView:
    made = await desk.subscribe(items={"Seats": quantity})
    await desk.house.advance(START + DAY)
    return made


async def test_a_fee_below_its_minimum_has_a_true_up_and_steps_that_add_up(
    databases: Databases,
) -> None:
    desk, _ = await desk_of(databases, amount="10.00", minimum_amount="40.00")
    await seats(desk, "3")
    assert await desk.lines("activation") == [
        ("Seats", 30_00),
        ("Seats: up to the minimum", 10_00),
    ]
    (invoice,) = await desk.house.invoices()
    fee, true_up = (await desk.house.view(invoice["id"])).lines
    assert sum(Fraction(step["amount"]) for step in fee.steps) == fee.derivation.exact == 30
    assert (true_up.kind, true_up.derivation.exact) == (LineKind.TRUE_UP, Fraction(10))


async def test_a_fee_above_its_maximum_has_a_negative_true_up(databases: Databases) -> None:
    desk, _ = await desk_of(databases, amount="10.00", maximum_amount="25.00")
    await seats(desk, "3")
    assert await desk.lines("activation") == [
        ("Seats", 30_00),
        ("Seats: down to the maximum", -5_00),
    ]


async def test_a_change_gives_the_bounded_fee_back_and_charges_the_new_one_by_its_own_bound(
    databases: Databases,
) -> None:
    desk, _ = await desk_of(databases, amount="10.00", minimum_amount="40.00")
    made = await seats(desk, "1")
    await desk.house.advance(MIDDLE)
    await desk.change(made.row.id, ItemChange(made.items[0].id, quantity="2"))
    await desk.change(made.row.id, ItemChange(made.items[0].id, quantity="7"))
    await desk.house.advance(MIDDLE + DAY)
    assert await desk.lines("change") == [
        ("Seats: unused time", -5_00),
        ("Seats: up to the minimum: unused time", -15_00),
        ("Seats: remaining time", 10_00),
        ("Seats: up to the minimum: remaining time", 10_00),
        ("Seats: unused time", -10_00),
        ("Seats: up to the minimum: unused time", -10_00),
        ("Seats: remaining time", 35_00),
    ]


@pytest.mark.parametrize("bound", [{"minimum_amount": "40.01"}, {"maximum_amount": "20.33"}])
@pytest.mark.parametrize("off", [{"percent": "12.5"}, {"amount": 7_77}])
async def test_what_is_given_back_of_a_bounded_fee_is_what_was_paid(
    databases: Databases, bound: dict[str, str], off: dict[str, object]
) -> None:
    desk, customer = await desk_of(databases, amount="10.00", **bound)
    await desk.house.execute("UPDATE customers SET tax_percent = 20")
    await discount(desk.house, customer, periods=1, **off)  # type: ignore[arg-type] # one of both
    made = await desk.subscribe(items={"Seats": "3"})
    await desk.house.deliver()
    await desk.house.execute("UPDATE invoices SET finalize_at = boundary")
    await desk.house.settle()
    await desk.cancel(made.row.id)
    await desk.house.advance(START + DAY)
    activation, final = await desk.house.invoices()
    assert activation["total"] > 0
    assert final["to_credit_balance"] == activation["total"]
