"""Below the lines: discounts, tax and credit, in previews and in final invoices, each used once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from typing import Final
from uuid import UUID

import asyncpg
import pytest

from billing.domain.money import Money
from billing.runtime.ids import new_id
from billing.services import credit_ledger
from billing.services.credit_ledger import CreditKind, Entry
from billing.services.draft_claims import FinalizationSettings
from billing.services.finalization import finalize_due
from billing.services.subscription_edits import ItemChange, Proration
from tests.conftest import LONG, Databases
from tests.desk import Desk
from tests.driver import DAY, HOUR, Driver, house_of, utc

START = utc(2024, 5, 1)
BOUNDARY = utc(2024, 6, 1)
CUSTOMERS: Final = 30 if LONG else 4


async def grant(house: Driver, customer: UUID, minor_units: int, currency: str = "USD") -> None:
    async with house.databases.api.transaction(house.tenant_id) as tx:
        account = (house.tenant_id, customer, currency)
        await credit_ledger.lock_balances(tx, [account])
        amount = Money(minor_units, currency)
        entry = Entry(house.tenant_id, customer, CreditKind.GRANT, amount, house.now)
        await credit_ledger.append(tx, [entry], now=house.now)


async def discount(
    house: Driver,
    customer: UUID,
    *,
    percent: str | None = None,
    amount: int | None = None,
    periods: int | None = None,
) -> None:
    await house.execute(
        "INSERT INTO discounts"
        " (tenant_id, id, customer_id, display_name, percent, amount, currency, periods, created_at)"
        " VALUES ($1, $2, $3, 'Spring', $4::text::numeric, $5::bigint, $6, $7, now())",
        house.tenant_id,
        new_id(house.now),
        customer,
        percent,
        amount,
        None if amount is None else "USD",
        periods,
    )


async def balance(house: Driver) -> tuple[int, int]:
    """What the balances hold, and what the ledger sums to."""
    row = await house.rows(
        "SELECT (SELECT coalesce(sum(balance), 0)::bigint FROM credit_balances),"
        " (SELECT coalesce(sum(amount), 0)::bigint FROM credit_ledger)"
    )
    return row[0][0], row[0][1]


async def test_discount_then_tax_then_credit_in_preview_and_final_alike(
    databases: Databases,
) -> None:
    house = await house_of(databases, START)
    customer = await house.customer("UA")
    await house.plan(fee="49.00", per_minute="0.10")
    await house.execute("UPDATE customers SET tax_percent = 20")
    await house.subscribe()
    await house.advance(START + 2 * HOUR)
    await discount(house, customer, percent="10", periods=1)
    await grant(house, customer, 1000)
    await house.advance(START + 4 * DAY)
    await house.use(START + 3 * DAY, "15")
    await house.advance(BOUNDARY + HOUR / 2)
    draft = (await house.invoices())[-1]

    previewed = await house.view(draft["id"])
    await house.advance(BOUNDARY + 2 * HOUR)
    final = await house.view(draft["id"])

    assert [replace(line, meter_id=None) for line in previewed.lines] == list(final.lines)
    assert previewed.discounts == final.discounts
    assert previewed.parties == final.parties
    row = final.row
    # 1.50 + 49.00, less 10 % (0.15 + 4.90), and 20 % on 1.35 and 44.10.
    assert (row.subtotal, row.discount, row.tax, row.total) == (5050, 505, 909, 5454)
    assert (row.credit_applied, row.amount_due) == (1000, 4454)
    assert [(line.discount, line.tax) for line in final.lines] == [
        (Money(15, "USD"), Money(27, "USD")),
        (Money(490, "USD"), Money(882, "USD")),
    ]
    assert await balance(house) == (0, 0)

    # Its one period is used up.
    await house.advance(utc(2024, 7, 1) + 2 * HOUR)
    assert (await house.invoices())[-1]["discount"] == 0


async def test_two_invoices_of_one_customer_in_one_batch_share_its_credit(
    databases: Databases,
) -> None:
    house = await house_of(databases, START)
    customer = await house.customer("UA")
    await house.plan("one", fee="30.00")
    await house.plan("two", fee="30.00")
    await grant(house, customer, 4000)
    await discount(house, customer, amount=500, periods=1)
    await house.subscribe(plan="one")
    await house.subscribe(plan="two")

    await house.advance(START + 2 * HOUR)

    first, second = sorted(await house.invoices(), key=lambda row: row["number"])
    assert (first["discount"], first["credit_applied"], first["status"]) == (500, 2500, "paid")
    assert (second["discount"], second["credit_applied"], second["amount_due"]) == (0, 1500, 1500)
    assert await balance(house) == (0, 0)
    rows = await house.rows("SELECT sequence, balance_after FROM credit_ledger ORDER BY sequence")
    assert [tuple(row) for row in rows] == [(1, 4000), (2, 1500), (3, 0)]


async def test_what_a_final_invoice_says_below_its_lines_is_refused_to_change(
    databases: Databases,
) -> None:
    house = await house_of(databases, START)
    customer = await house.customer("UA")
    await house.plan(fee="30.00")
    await discount(house, customer, percent="50")
    await grant(house, customer, 100)
    await house.subscribe()
    await house.advance(START + 2 * HOUR)
    for statement in (
        "UPDATE invoices SET discount = 0, tax = tax - discount",
        "UPDATE invoices SET credit_applied = 0, amount_due = total",
        "UPDATE invoices SET memo = 'x'",
        "UPDATE invoices SET parties = '{}'",
        "UPDATE invoices SET amount_due = 1",
        "UPDATE invoice_lines SET tax = 1",
        "UPDATE invoice_discounts SET amount = 1",
        "DELETE FROM credit_ledger",
        "UPDATE credit_ledger SET amount = 1",
        "UPDATE credit_balances SET balance = -1",
        "INSERT INTO invoice_lines SELECT (jsonb_populate_record(l, '{\"line_number\": 99}')).* FROM invoice_lines l",
    ):
        with pytest.raises(
            (
                asyncpg.RestrictViolationError,
                asyncpg.CheckViolationError,
                asyncpg.InsufficientPrivilegeError,
            )
        ):
            await house.execute(statement)


async def test_subscriptions_that_become_final_at_once_never_spend_a_credit_or_a_discount_twice(
    databases: Databases,
) -> None:
    house = await house_of(databases, mode="live")
    await house.plan("one", fee="30.00")
    await house.plan("two", fee="30.00")
    for n in range(CUSTOMERS):
        customer = await house.customer(f"C{n}")
        await grant(house, customer, 4000)
        await discount(house, customer, amount=500, periods=1)
        await house.subscribe(f"C{n}", "one")
        await house.subscribe(f"C{n}", "two")
    await house.settle()
    await house.execute("UPDATE invoices SET finalize_at = now() - interval '1 s'")

    async def work() -> None:
        settings = FinalizationSettings(batch_max=1)
        while await house.value("SELECT count(*) FROM invoices WHERE status = 'draft'"):
            await finalize_due(house.databases.worker, settings, now=house.now)

    await asyncio.gather(*(work() for _ in range(4)))

    rows = await house.rows(
        "SELECT sum(discount)::int AS discount, sum(credit_applied)::int AS credit,"
        " sum(amount_due)::int AS due FROM invoices GROUP BY customer_id"
    )
    assert [tuple(row) for row in rows] == [(500, 4000, 1500)] * CUSTOMERS
    assert await balance(house) == (0, 0)


async def test_a_fee_that_cost_nothing_gives_nothing_back(databases: Databases) -> None:
    house = await house_of(databases, START)
    customer = await house.customer("UA")
    await house.plan(fee="30.00")
    await house.execute("UPDATE customers SET tax_percent = 20")
    await discount(house, customer, percent="100", periods=1)
    await house.subscribe()
    await house.advance(START + 15 * DAY)
    first = (await house.invoices())[0]
    assert (first["kind"], first["discount"], first["total"]) == ("activation", 3000, 0)
    await house.execute("UPDATE customers SET tax_percent = 10")

    view = await house.view(await given_back(house, first["id"], START + 15 * DAY))

    (line,) = view.lines
    assert line.amount.minor_units < 0
    # The discount and the tax are those of the charge that is given back, not those of today.
    assert (line.discount, line.tax_percent) == (line.amount, Fraction(20))
    assert (view.row.total, view.row.to_credit_balance) == (0, 0)


async def test_a_credit_that_waits_for_the_next_invoice_keeps_the_charge_s_discount(
    databases: Databases,
) -> None:
    house = await house_of(databases, utc(2024, 4, 1))
    customer = await house.customer("UA")
    await house.plan(fee="30.00")
    await discount(house, customer, percent="100", periods=1)
    desk = Desk(house)
    made = await desk.subscribe()
    await house.advance(utc(2024, 4, 16))
    more = ItemChange(made.items[0].id, quantity="2")
    await desk.change(made.row.id, more, proration=Proration.NEXT_INVOICE)
    await house.advance(utc(2024, 5, 1) + 2 * HOUR)
    credit, debit, fee = (await house.view((await house.invoices())[-1]["id"])).lines
    assert credit.amount.minor_units == -1500
    assert [line.discount for line in (credit, debit, fee)] == [
        credit.amount,
        Money(0, "USD"),
        Money(0, "USD"),
    ]


async def test_each_credit_of_an_invoice_has_the_tax_of_its_own_charge(
    databases: Databases,
) -> None:
    """A second change before the first one's invoice is final gives back what is taxed otherwise."""
    house = await house_of(databases, utc(2024, 4, 1))
    await house.customer("UA")
    await house.plan(fee="30.00")
    desk = Desk(house)
    other = await desk.price("Other", amount="60.00")
    third = await desk.price("Third", amount="90.00")
    made = await desk.subscribe(items={"Fee": "1"})
    await house.advance(utc(2024, 4, 16))
    # Prices are never edited; these have not been used yet.
    await house.execute("UPDATE prices SET tax_percent = 20 WHERE id = $1", other)
    item = made.items[0].id
    await desk.change(made.row.id, ItemChange(item, other))
    await desk.change(made.row.id, ItemChange(item, third))
    await house.advance(utc(2024, 4, 16) + 2 * HOUR)
    lines = (await house.view((await house.invoices())[-1]["id"])).lines
    assert [(line.amount.minor_units, line.tax_percent) for line in lines] == [
        (-1500, Fraction(0)),
        (3000, Fraction(20)),
        (-3000, Fraction(20)),
        (4500, Fraction(0)),
    ]


async def test_a_charge_and_its_credit_that_become_final_at_once_have_one_discount(
    databases: Databases,
) -> None:
    """After an outage of the finalizer the draft of the charge is not written yet when its credit is computed."""
    house = await house_of(databases, utc(2024, 4, 1))
    customer = await house.customer("UA")
    await house.plan(fee="30.00")
    await discount(house, customer, percent="100", periods=1)
    desk = Desk(house)
    made = await desk.subscribe()
    await house.deliver()
    await house.execute("UPDATE invoices SET finalize_at = $1", utc(2024, 4, 20))
    await house.advance(utc(2024, 4, 16))
    await desk.cancel(made.row.id)
    await house.deliver()
    await house.execute("UPDATE invoices SET finalize_at = $1", utc(2024, 4, 20))
    assert await house.value("SELECT count(*) FROM invoices WHERE status = 'draft'") == 2
    await house.advance(utc(2024, 4, 21))
    assert await balance(house) == (0, 0)


async def test_a_credit_has_the_discount_of_its_own_charge_among_those_of_one_instant(
    databases: Databases,
) -> None:
    """They have one item, price and begin; the amount that is off is spread to the cent, so their shares differ."""
    house = await house_of(databases, utc(2024, 4, 1))
    customer = await house.customer("UA")
    await house.plan(fee="30.00")
    desk = Desk(house)
    made = await desk.subscribe()
    await house.advance(utc(2024, 4, 16))
    await discount(house, customer, amount=777)
    for quantity in ("2", "20"):
        await desk.change(made.row.id, ItemChange(made.items[0].id, quantity=quantity))
    await house.advance(utc(2024, 4, 23, 12))
    lines = (await house.view((await house.invoices())[-1]["id"])).lines
    shares = [(line.amount.minor_units, line.discount) for line in lines]
    cents = [0, 78, -78, 777]
    assert shares == list(
        zip((-1500, 3000, -3000, 30000), [Money(one, "USD") for one in cents], strict=True)
    )
    await desk.cancel(made.row.id)
    await house.advance(utc(2024, 4, 24))
    (credit,) = (await house.view((await house.invoices())[-1]["id"])).lines
    # Half of the last charge, with half of what was taken off it.
    assert (credit.amount, credit.discount) == (Money(-15000, "USD"), Money(-389, "USD"))


async def given_back(house: Driver, invoice: UUID, at: datetime) -> UUID:
    """A final draft that gives the rest of the invoice's fee back from `at` on."""
    await house.execute(
        "INSERT INTO billing_cycles (tenant_id, subscription_id, kind, boundary, id, period_start, closed_at)"
        " SELECT tenant_id, subscription_id, 'final', $2, $3, boundary, $2 FROM invoices WHERE id = $1",
        invoice,
        at,
        new_id(house.now),
    )
    await house.execute(
        "INSERT INTO fee_periods (tenant_id, subscription_id, item_id, price_id, quantity, reason, billing_timing,"
        " period_start, period_end, nominal_start, nominal_end, bill_kind, bill_boundary, gives_back)"
        " SELECT tenant_id, subscription_id, item_id, price_id, quantity, 'credit', billing_timing, $1, period_end,"
        " nominal_start, nominal_end, 'final', $1, id FROM fee_periods WHERE bill_kind = 'activation'",
        at,
    )
    draft = new_id(house.now)
    await house.execute(
        "INSERT INTO invoices (tenant_id, id, customer_id, subscription_id, kind, boundary, currency, closed_at,"
        " finalize_at, correlation_id, created_at) SELECT tenant_id, $2, customer_id, subscription_id, 'final', $3,"
        " currency, $3, $3, correlation_id, $3 FROM invoices WHERE id = $1",
        invoice,
        draft,
        at,
    )
    return draft


async def test_a_discount_counts_a_change_that_ends_a_period_and_none_within_one(
    databases: Databases,
) -> None:
    house = await house_of(databases, START)
    customer = await house.customer("UA")
    await house.plan(fee="31.00")
    weekly = await house.plan("weekly", fee="7.00", interval="week")
    await discount(house, customer, percent="50", periods=3)
    desk = Desk(house)
    made = await desk.subscribe()
    fee = made.items[0].id
    await house.advance(START + 5 * DAY)
    await desk.change(made.row.id, ItemChange(fee, quantity="2"))
    await house.advance(START + 10 * DAY)
    price = (await desk.prices("weekly"))["Fee"]
    await desk.change(made.row.id, ItemChange(fee, price), plan_id=weekly)
    await house.advance(START + 40 * DAY)
    # The activation, the change of interval and one week; the change of the quantity lies within the first period.
    assert [row["discount"] != 0 for row in await house.invoices()] == [
        *(True, True, True),
        *(True, False, False),
        False,
    ]
    counted = await house.rows(
        "SELECT i.kind, d.counted FROM invoices i"
        " JOIN invoice_discounts d ON d.tenant_id = i.tenant_id AND d.invoice_id = i.id"
        " ORDER BY i.boundary"
    )
    assert [tuple(row) for row in counted] == [
        ("activation", True),
        ("change", False),
        ("change", True),
        ("period", True),
    ]
