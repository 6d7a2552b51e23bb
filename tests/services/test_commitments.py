"""A plan's commitment: what usage and fees of a period lack to it is a line, and later usage takes it back."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from billing.services import catalog
from billing.services.invoice_line import LineKind
from billing.services.subscription_terms import Alignment
from tests.conftest import Databases
from tests.driver import DAY, HOUR, Driver, house_of, utc

START = utc(2024, 5, 1)
JUNE, JULY = utc(2024, 6, 1), utc(2024, 7, 1)


async def promised(databases: Databases, commitment: str, *, fee: str = "49.00") -> Driver:
    """A tenant with a plan of a fee, minutes at 0.10 and a commitment."""
    house = await house_of(databases, START)
    await house.customer("UA")
    await house.meter("minutes")
    async with databases.api.transaction(house.tenant_id) as tx:
        new = catalog.NewPlan("plan", "Plan", "USD", "month", commitment=commitment)
        plan = await catalog.create_plan(tx, house.tenant_id, new, house.cause(), now=house.now)
        for price in (
            catalog.NewPrice("Fee", "", "", "flat", {"amount": fee}, None),
            catalog.NewPrice("Minutes", "minutes", "", "per_unit", {"unit_amount": "0.10"}, None),
        ):
            await catalog.create_price(
                tx, house.tenant_id, plan, price, house.cause(), now=house.now
            )
    return house


async def lines(house: Driver, boundary: Any) -> list[tuple[LineKind, int]]:
    """Kind and amount of the lines of the invoice at the boundary, which is final."""
    (invoice,) = [row for row in await house.invoices() if row["boundary"] == boundary]
    assert invoice["status"] in ("open", "paid")
    return [
        (line.kind, line.amount.minor_units) for line in (await house.view(invoice["id"])).lines
    ]


async def test_what_usage_and_fees_lack_to_the_commitment_is_a_line(databases: Databases) -> None:
    house = await promised(databases, "100")
    await house.subscribe()
    await house.advance(START + 5 * DAY)
    await house.use(START + 3 * DAY, "120")
    await house.advance(JUNE + 2 * HOUR)
    # The fee of May stands on the invoice of its start; June's, on this one, counts for June.
    assert await lines(house, JUNE) == [
        (LineKind.USAGE, 1200),
        (LineKind.FEE, 4900),
        (LineKind.COMMITMENT, 10000 - 1200 - 4900),
    ]
    (line,) = [
        line
        for line in (await house.view((await house.invoices())[-1]["id"])).lines
        if line.kind is LineKind.COMMITMENT
    ]
    assert sum(Fraction(step["amount"]) for step in line.steps) == Fraction(39)
    await house.advance(JULY + 2 * HOUR)
    assert await lines(house, JULY) == [
        (LineKind.USAGE, 0),
        (LineKind.FEE, 4900),
        (LineKind.COMMITMENT, 5100),
    ]


async def test_a_commitment_that_is_reached_makes_no_line(databases: Databases) -> None:
    house = await promised(databases, "100")
    await house.subscribe()
    await house.advance(START + 5 * DAY)
    await house.use(START + 3 * DAY, "510")
    await house.advance(JUNE + 2 * HOUR)
    assert await lines(house, JUNE) == [(LineKind.USAGE, 5100), (LineKind.FEE, 4900)]


async def test_later_usage_takes_the_true_up_back_and_no_more(databases: Databases) -> None:
    house = await promised(databases, "100")
    await house.subscribe()
    await house.advance(JUNE + 2 * HOUR)
    assert (LineKind.COMMITMENT, 5100) in await lines(house, JUNE)
    await house.use(START + 7 * DAY, "300", backfill=True)
    await house.deliver()
    await house.use(START + 8 * DAY, "400", backfill=True)
    await house.deliver()
    await house.advance(JULY + 2 * HOUR)
    found = await lines(house, JULY)
    assert (LineKind.ADJUSTMENT, 7000) in found
    # May was billed up to 100.00; with 119.00 of usage and fees nothing of that true-up is owed. June has its own.
    assert [amount for kind, amount in found if kind is LineKind.COMMITMENT] == [-5100, 5100]


async def test_a_partial_period_owes_its_share_of_the_commitment(databases: Databases) -> None:
    house = await promised(databases, "310", fee="31.00")
    await house.advance(START + 10 * DAY)
    await house.subscribe(alignment=Alignment.CALENDAR)
    await house.advance(JUNE + 2 * HOUR)
    assert await lines(house, JUNE) == [
        (LineKind.USAGE, 0),
        (LineKind.FEE, 3100),
        (LineKind.COMMITMENT, 21000 - 2100),
    ]


async def test_catching_up_gives_the_same_commitments(databases: Databases) -> None:
    """Periods that become final in one transaction count the fees that stand on each other."""
    house = await promised(databases, "100")
    await house.subscribe()
    await house.advance(START + 5 * DAY)
    await house.use(START + 3 * DAY, "120")
    await house.deliver()
    await house.execute("UPDATE test_clocks SET business_time = $1, target_time = $1", JULY + DAY)
    await house.settle()
    await house.execute("UPDATE invoices SET finalize_at = $1 WHERE status = 'draft'", JULY)
    await house.settle()
    assert (LineKind.COMMITMENT, 3900) in await lines(house, JUNE)
    assert (LineKind.COMMITMENT, 5100) in await lines(house, JULY)
