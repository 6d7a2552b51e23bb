"""A house whose plans promise an amount, and what its invoices say of it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from billing.services import catalog
from billing.services.invoice_line import Line, LineKind
from billing.services.subscription_edits import ItemChange, Proration
from billing.services.subscription_requests import Later
from tests.conftest import Databases
from tests.desk import Desk
from tests.driver import Driver, house_of, utc

START = utc(2024, 5, 1)
JUNE, JULY = utc(2024, 6, 1), utc(2024, 7, 1)


async def promised(
    databases: Databases, commitment: str, *, fee: str = "49.00", tax: tuple[str, str] = ("", "")
) -> Driver:
    """A tenant with a plan of a fee, minutes at 0.10 and a commitment; the prices' taxes in that order."""
    house = await house_of(databases, START)
    await house.customer("UA")
    await house.meter("minutes")
    await promise(house, "plan", commitment, fee=fee, tax=tax)
    return house


async def promise(
    house: Driver,
    key: str,
    commitment: str,
    *,
    fee: str = "49.00",
    tax: tuple[str, str] = ("", ""),
    interval: str = "month",
) -> UUID:
    """The same plan, under another key."""
    async with house.databases.api.transaction(house.tenant_id) as tx:
        new = catalog.NewPlan(key, key, "USD", interval, commitment=commitment)
        plan = await catalog.create_plan(tx, house.tenant_id, new, house.cause(), now=house.now)
        minutes = {"unit_amount": "0.10"}
        for price in (
            catalog.NewPrice("Fee", "", "", "flat", {"amount": fee}, None, tax[0]),
            catalog.NewPrice("Minutes", "minutes", "", "per_unit", minutes, None, tax[1]),
        ):
            await catalog.create_price(
                tx, house.tenant_id, plan, price, house.cause(), now=house.now
            )
    return plan.id


async def lines(house: Driver, boundary: Any) -> list[tuple[LineKind, int]]:
    """Kind and amount of the lines of the invoice at the boundary, which is final."""
    (invoice,) = [row for row in await house.invoices() if row["boundary"] == boundary]
    assert invoice["status"] in ("open", "paid")
    return [
        (line.kind, line.amount.minor_units) for line in (await house.view(invoice["id"])).lines
    ]


async def commitments(house: Driver, boundary: Any) -> list[Line]:
    (invoice,) = [row for row in await house.invoices() if row["boundary"] == boundary]
    view = await house.view(invoice["id"])
    return [line for line in view.lines if line.kind is LineKind.COMMITMENT]


async def move(
    house: Driver,
    key: str,
    plan: UUID,
    later: Later | None,
    proration: Proration = Proration.AT_ONCE,
) -> None:
    """The only subscription gets another plan, with the prices of the same names."""
    desk = Desk(house)
    rows = await house.rows("SELECT id, meter_id, subscription_id FROM subscription_items")
    prices = await desk.prices(key)
    changes = [
        ItemChange(row["id"], prices["Minutes" if row["meter_id"] else "Fee"]) for row in rows
    ]
    await desk.change(
        rows[0]["subscription_id"], *changes, plan_id=plan, later=later, proration=proration
    )
