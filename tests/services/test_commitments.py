"""A plan's commitment: what usage and fees of a period lack to it is a line, and later usage takes it back."""

from __future__ import annotations

from fractions import Fraction

import pytest

from billing.services.invoice_line import LineKind
from billing.services.subscription_terms import Alignment
from tests.conftest import Databases
from tests.driver import DAY, HOUR
from tests.services.commitment_world import (
    JULY,
    JUNE,
    START,
    commitments,
    lines,
    promised,
)


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


async def test_what_another_system_has_billed_owes_no_commitment(databases: Databases) -> None:
    house = await promised(databases, "100")
    await house.advance(START + 10 * DAY)
    await house.subscribe(start_at=START - 200 * DAY, billed_until=JUNE, anchor_day=1)
    await house.advance(JUNE + 2 * HOUR)
    assert await lines(house, JUNE) == [(LineKind.FEE, 4900)]
    await house.advance(JULY + 2 * HOUR)
    assert (LineKind.COMMITMENT, 5100) in await lines(house, JULY)


@pytest.mark.parametrize(
    ("tax", "percent"), [(("20", "20"), 20), (("20", "7"), 0), (("", ""), 0)], ids=str
)
async def test_a_true_up_is_taxed_as_all_that_it_tops_up_is(
    databases: Databases, tax: tuple[str, str], percent: int
) -> None:
    house = await promised(databases, "100", tax=tax)
    await house.subscribe()
    await house.advance(JUNE + 2 * HOUR)
    (line,) = await commitments(house, JUNE)
    assert line.tax is not None
    assert (line.tax_percent, line.tax.minor_units) == (Fraction(percent), 51 * percent)
    await house.execute("UPDATE customers SET tax_percent = 5")
    await house.advance(JULY + 2 * HOUR)
    (line,) = await commitments(house, JULY)
    assert line.tax_percent == 5


async def test_a_true_up_is_taken_back_with_the_discount_and_the_tax_that_it_had(
    databases: Databases,
) -> None:
    house = await promised(databases, "100")
    await house.subscribe()
    await house.advance(START + DAY)
    await house.execute("UPDATE customers SET tax_percent = 20")
    await house.execute(
        "INSERT INTO discounts (tenant_id, id, customer_id, display_name, percent, created_at)"
        " SELECT tenant_id, id, id, 'Half', 50, $1 FROM customers",
        START,
    )
    await house.advance(JUNE + 2 * HOUR)
    await house.execute("UPDATE discounts SET ended_at = $1", JUNE + 2 * HOUR)
    await house.execute("UPDATE customers SET tax_percent = 7")
    await house.use(START + 7 * DAY, "510", backfill=True)
    await house.deliver()
    await house.advance(JULY + 2 * HOUR)
    back, own = await commitments(house, JULY)
    assert back.discount is not None
    assert back.tax is not None
    assert (back.amount.minor_units, back.discount.minor_units) == (-5100, -2550)
    assert (back.tax_percent, back.tax.minor_units) == (Fraction(20), -510)
    assert own.discount is not None
    assert (own.discount.minor_units, own.tax_percent) == (0, Fraction(7))
