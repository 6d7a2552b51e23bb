"""A plan's commitment: what usage and fees of a period lack to it is a line, and later usage takes it back."""

from __future__ import annotations

from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest

from billing.services import catalog
from billing.services.invoice_line import Line, LineKind
from billing.services.subscription_edits import ItemChange, Proration
from billing.services.subscription_requests import Later
from billing.services.subscription_terms import Alignment
from tests.conftest import Databases
from tests.desk import Desk
from tests.driver import DAY, HOUR, Driver, house_of, utc
from tests.plain_billing import cents

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


async def test_a_period_owes_the_commitment_of_the_plan_that_it_had(databases: Databases) -> None:
    house = await promised(databases, "100")
    other = await promise(house, "other", "500", fee="0.00")
    await house.subscribe()
    await house.advance(START + 5 * DAY)
    await move(house, "other", other, Later())
    await house.advance(JUNE + 2 * HOUR)
    assert (LineKind.COMMITMENT, 5100) in await lines(house, JUNE)
    await house.use(START + 7 * DAY, "510", backfill=True)
    await house.deliver()
    await house.advance(JULY + 2 * HOUR)
    # What comes late for May takes May's true-up back, and June owes what the new plan promises.
    found = await lines(house, JULY)
    assert [amount for kind, amount in found if kind is LineKind.COMMITMENT] == [-5100, 50000]


async def test_a_change_of_plan_owes_each_plan_its_share_of_the_period(
    databases: Databases,
) -> None:
    """The example of docs/prices.md: 100.00 for ten days of 31 and 250.00 for 21, rounded once."""
    house = await promised(databases, "100", fee="0.00")
    other = await promise(house, "other", "250", fee="0.00")
    await house.subscribe()
    await house.advance(START + 10 * DAY)
    await house.use(START + 3 * DAY, "120")
    await house.deliver()
    await move(house, "other", other, None)
    await house.use(START + 10 * DAY, "7")
    await house.deliver()
    await house.advance(JUNE + 2 * HOUR)
    owed = Fraction(100) * 10 / 31 + Fraction(250) * 21 / 31
    (line,) = await commitments(house, JUNE)
    assert (line.amount.minor_units, cents(owed)) == (20161 - 1200 - 70, 20161)
    assert [(step["label"], step["unit_amount"]) for step in line.steps] == [
        ("commitment", "100"),
        ("commitment", "250"),
        ("usage and fees", "-12.7"),
    ]
    assert line.derivation.share == 1
    # June owes the new plan's alone; late usage takes May's back down to what both promised.
    await house.use(START + 20 * DAY, "2000", backfill=True)
    await house.deliver()
    await house.advance(JULY + 2 * HOUR)
    assert [one.amount.minor_units for one in await commitments(house, JULY)] == [
        -(20161 - 1270),
        25000,
    ]


async def test_plans_changed_and_changed_back_owe_their_days(databases: Databases) -> None:
    house = await promised(databases, "310", fee="0.00")
    free = await promise(house, "free", "", fee="0.00")
    dear = await promise(house, "dear", "620", fee="0.00")
    view = await house.subscribe()
    await house.advance(START + 5 * DAY)
    await move(house, "free", free, None)
    await move(house, "dear", dear, None)  # the clock stands: nothing is owed to the plan between
    await house.advance(START + 11 * DAY)
    await move(house, "free", free, None)
    await house.advance(START + 20 * DAY)
    await move(house, "plan", view.row.plan_id, None)
    await house.advance(JUNE + 2 * HOUR)
    (line,) = await commitments(house, JUNE)
    assert line.amount.minor_units == (5 * 10 + 6 * 20 + 9 * 0 + 11 * 10) * 100


async def test_a_cancellation_owes_the_plans_up_to_its_instant(databases: Databases) -> None:
    house = await promised(databases, "310", fee="0.00")
    dear = await promise(house, "dear", "620", fee="0.00")
    view = await house.subscribe()
    await house.advance(START + 5 * DAY)
    await move(house, "dear", dear, None)
    await house.advance(START + 7 * DAY + HOUR)
    await Desk(house).cancel(view.row.id)
    end = START + 7 * DAY + HOUR
    await house.advance(end + 2 * HOUR)
    (line,) = await commitments(house, end)
    assert line.amount.minor_units == cents(5 * Fraction(10) + (2 + Fraction(1, 24)) * 20)


async def test_by_day_the_day_of_the_change_belongs_to_the_new_plan(databases: Databases) -> None:
    house = await promised(databases, "310", fee="0.00")
    dear = await promise(house, "dear", "620", fee="0.00")
    await house.execute("UPDATE plans SET granularity = 'day'")
    await house.subscribe()
    await house.advance(START + 5 * DAY + 18 * HOUR)
    await move(house, "dear", dear, None)
    await house.advance(JUNE + 2 * HOUR)
    (line,) = await commitments(house, JUNE)
    assert line.amount.minor_units == (5 * 10 + 26 * 20) * 100


async def test_a_change_on_the_first_day_owes_the_new_plan_alone(databases: Databases) -> None:
    house = await promised(databases, "310", fee="0.00")
    dear = await promise(house, "dear", "620", fee="0.00")
    await house.execute("UPDATE plans SET granularity = 'day'")
    await house.subscribe()
    await house.advance(START + 18 * HOUR)
    await move(house, "dear", dear, None)
    await house.advance(JUNE + 2 * HOUR)
    (line,) = await commitments(house, JUNE)
    assert line.amount.minor_units == 62000
    assert line.steps[0]["quantity"] == "1"


async def test_without_proration_the_period_owes_the_old_plan(databases: Databases) -> None:
    """As its fees, which stay until the period's end."""
    house = await promised(databases, "310", fee="0.00")
    dear = await promise(house, "dear", "620", fee="0.00")
    await house.subscribe()
    await house.advance(START + 5 * DAY)
    await move(house, "dear", dear, None, Proration.NONE)
    await house.advance(JULY + 2 * HOUR)
    assert [one.amount.minor_units for one in await commitments(house, JUNE)] == [31000]
    assert [one.amount.minor_units for one in await commitments(house, JULY)] == [62000]


async def test_a_change_of_interval_bills_the_commitment_of_the_part_that_it_ends(
    databases: Databases,
) -> None:
    house = await promised(databases, "310", fee="31.00")
    yearly = await promise(house, "yearly", "", fee="366.00", interval="year")
    await house.subscribe()
    middle = START + 10 * DAY
    await house.advance(middle)
    await move(house, "yearly", yearly, None)
    await house.advance(middle + 2 * HOUR)
    # Ten of 31 days: 100.00 are promised, and 10.00 of the fee remain after what was given back.
    assert (LineKind.COMMITMENT, 9000) in await lines(house, middle)


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


async def test_a_change_of_interval_that_joins_an_earlier_change_s_invoice_bills_the_commitment(
    databases: Databases,
) -> None:
    """The clock stands, so both have one instant, one cycle and one invoice."""
    house = await promised(databases, "310", fee="31.00")
    yearly = await promise(house, "yearly", "", fee="366.00", interval="year")
    view = await house.subscribe()
    middle = START + 10 * DAY
    await house.advance(middle)
    fee = next(item.id for item in view.items if item.meter_id is None)
    await Desk(house).change(view.row.id, ItemChange(fee, quantity="2"))
    await move(house, "yearly", yearly, None)
    await house.advance(middle + 2 * HOUR)
    assert (LineKind.COMMITMENT, 9000) in await lines(house, middle)


async def test_by_day_a_change_of_interval_counts_each_fee_towards_its_own_period(
    databases: Databases,
) -> None:
    """The new fee is charged from the midnight before, which lies in the period that ends."""
    house = await promised(databases, "310", fee="31.00")
    weekly = await promise(house, "weekly", "70", fee="7.00", interval="week")
    await house.execute("UPDATE plans SET granularity = 'day'")
    await house.subscribe()
    middle = START + 10 * DAY + 12 * HOUR
    await house.advance(middle)
    await move(house, "weekly", weekly, None)
    await house.advance(middle + 8 * DAY)
    first = await commitments(house, middle)
    # Ten and a half of 31 days are promised, and ten days of the fee remain.
    assert [one.amount.minor_units for one in first] == [10500 - 1000]
    (row, *_) = await house.rows(
        "SELECT * FROM billing_cycles WHERE kind = 'period' AND closed_at IS NOT NULL ORDER BY boundary"
    )
    second = await commitments(house, row["boundary"])
    days = Fraction(int((row["boundary"] - row["period_start"]).total_seconds()), 86400)
    fee = cents(Fraction(7) * (days + Fraction(1, 2)) / 7)
    assert [one.amount.minor_units for one in second] == [cents(70 * days / 7) - fee]
