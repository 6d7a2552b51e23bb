"""Usage lines carry what belongs to their price: its tax, and a true-up as a line of its own."""

from __future__ import annotations

from fractions import Fraction

from billing.services.invoice_line import LineKind
from tests.conftest import Databases
from tests.driver import DAY, HOUR, house_of, utc

START = utc(2024, 5, 1)


async def test_usage_and_its_true_up_have_the_tax_of_their_price(databases: Databases) -> None:
    house = await house_of(databases, START)
    await house.customer("UA")
    await house.plan(per_minute="0.333", minimum_amount="10")
    await house.execute("UPDATE prices SET tax_percent = 20 WHERE true")
    await house.subscribe()
    await house.advance(START + 5 * DAY)
    await house.use(START + 3 * DAY, "5")
    await house.advance(utc(2024, 6, 1) + 2 * HOUR)
    (invoice,) = [row for row in await house.invoices() if row["kind"] == "period"]
    lines = (await house.view(invoice["id"])).lines
    assert [(line.kind, line.amount.minor_units) for line in lines] == [
        (LineKind.USAGE, 167),
        (LineKind.TRUE_UP, 833),
    ]
    assert {line.tax_percent for line in lines} == {Fraction(20)}
    assert (invoice["subtotal"], invoice["tax"], invoice["total"]) == (1000, 200, 1200)
