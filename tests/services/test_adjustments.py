"""Adjustments: what comes late for a billed period is on the next invoice, as one line of the difference."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

import pytest

from billing.domain.period import Period
from billing.services.draft_claims import FinalizationSettings, OnTestClocks
from billing.services.due_subscriptions import Share, run_due
from billing.services.finalization import finalize_due
from billing.services.invoice_line import LineKind
from billing.services.invoice_voids import VoidOrder, void_invoice
from billing.services.invoices import InvoiceView
from billing.services.usage_amendments import Amendment, amend_usage
from billing.services.usage_revisions import Author
from tests.conftest import Databases
from tests.driver import DAY, HOUR, Driver, house_of, utc

START = utc(2024, 5, 1)
JUNE = utc(2024, 6, 1)
JULY = utc(2024, 7, 1)
AUGUST = utc(2024, 8, 1)
ADJUST_MARKS = "SELECT count(*) FROM usage_period_marks WHERE kind = 'adjust'"


async def billed(databases: Databases, **plan: str) -> Driver:
    """A tenant whose May is final with 10 minutes; its clock stands two hours behind the boundary."""
    house = await house_of(databases, START)
    await house.customer("UA")
    await house.plan(**({"fee": "49.00", "per_minute": "0.10"} | plan))
    await house.subscribe()
    await house.advance(START + 20 * DAY)
    await house.use(START + 3 * DAY, "10")
    await house.advance(JUNE + 2 * HOUR)
    return house


async def late(house: Driver, quantity: str, day: int = 7) -> None:
    """Usage of May that is reported now."""
    await house.use(START + day * DAY, quantity, backfill=True)
    await house.deliver()


async def take_back(house: Driver, quantity: str) -> None:
    """Voids the record of that quantity, as a further revision does."""
    await house.execute(
        "INSERT INTO usage_records (tenant_id, idempotency_key, batch_id, root_key, revision, voided, meter_id,"
        " customer_id, used_at, quantity, accepted_at, folded, item_id, period_start)"
        " SELECT tenant_id, 'void-' || idempotency_key, batch_id, idempotency_key, 1, true, meter_id, customer_id,"
        " used_at, quantity, accepted_at, true, item_id, period_start FROM usage_records WHERE quantity = $1::numeric",
        Decimal(quantity),
    )


async def last(house: Driver) -> InvoiceView:
    return await house.view((await house.invoices())[-1]["id"])


async def adjustments(house: Driver) -> list[tuple[datetime, int]]:
    """Boundary and amount of every adjustment on a final invoice."""
    lines = await house.rows(
        "SELECT i.boundary, l.amount FROM invoice_lines l"
        " JOIN invoices i ON i.tenant_id = l.tenant_id AND i.id = l.invoice_id WHERE l.kind = 'adjustment'"
    )
    return [(row["boundary"], row["amount"]) for row in lines]


async def test_late_usage_is_one_adjustment_on_the_next_invoice(databases: Databases) -> None:
    house = await billed(databases)
    may = await last(house)
    await late(house, "3")
    await late(house, "2", day=8)
    assert await last(house) == may
    assert await house.value(ADJUST_MARKS) == 2

    await house.advance(JULY + 2 * HOUR)

    usage, adjustment, fee = (await last(house)).lines
    assert (usage.kind, usage.amount.minor_units) == (LineKind.USAGE, 0)
    assert (adjustment.kind, adjustment.amount.minor_units) == (LineKind.ADJUSTMENT, 50)
    assert adjustment.period == Period(START, JUNE)
    assert adjustment.quantity == 15
    (earlier,) = adjustment.derivation.earlier
    assert (earlier.number, earlier.line_number, earlier.amount.minor_units) == (
        may.row.number,
        1,
        100,
    )
    assert fee.amount.minor_units == 4900
    assert await house.value(ADJUST_MARKS) == 0
    told = await house.rows("SELECT envelope FROM billing_events WHERE subject = 'usage.billed'")
    assert len(told) == 2


async def test_an_adjustment_takes_all_earlier_amounts_off_and_zero_makes_no_line(
    databases: Databases,
) -> None:
    house = await billed(databases)
    await late(house, "5")
    await house.advance(JULY + 2 * HOUR)
    assert [line.amount.minor_units for line in (await last(house)).lines] == [0, 50, 4900]
    await take_back(house, "10")
    await late(house, "5", day=9)

    await house.advance(utc(2024, 8, 1) + 2 * HOUR)

    # 5 and 5 are left of May, and 150 were billed for it.
    _, adjustment, _ = (await last(house)).lines
    assert adjustment.amount.minor_units == -50
    assert [one.amount.minor_units for one in adjustment.derivation.earlier] == [100, 50]
    await late(house, "0", day=10)
    await house.advance(utc(2024, 9, 1) + 2 * HOUR)
    assert [line.kind for line in (await last(house)).lines] == [LineKind.USAGE, LineKind.FEE]
    assert await house.value(ADJUST_MARKS) == 0


async def test_an_adjustment_recomputes_minimum_and_maximum(databases: Databases) -> None:
    house = await billed(databases, minimum_amount="2.00", maximum_amount="2.50")
    assert [line.amount.minor_units for line in (await last(house)).lines] == [100, 100, 4900]
    # 15 minutes cost 1.50, and are 2.00 by the minimum, as before.
    await late(house, "5")
    await house.advance(JULY + 2 * HOUR)
    assert [line.amount.minor_units for line in (await last(house)).lines] == [0, 200, 4900]
    assert await house.value(ADJUST_MARKS) == 0
    # 100 minutes cost 10.00, and are 2.50 by the maximum.
    await late(house, "85")
    await house.advance(utc(2024, 8, 1) + 2 * HOUR)
    assert [line.amount.minor_units for line in (await last(house)).lines] == [0, 200, 50, 4900]


async def test_a_preview_shows_the_adjustments_that_finalizing_makes(databases: Databases) -> None:
    house = await billed(databases)
    await late(house, "5")
    await house.advance(JULY + HOUR / 2)
    await late(house, "1")
    previewed = await last(house)
    await house.advance(JULY + 2 * HOUR)
    final = await last(house)
    assert [replace(line, meter_id=None) for line in previewed.lines] == list(final.lines)
    assert [line.amount.minor_units for line in final.lines] == [0, 60, 4900]


async def test_drafts_that_become_final_together_adjust_a_period_once(
    databases: Databases,
) -> None:
    """After an outage several periods of a subscription are due at once: the first of them takes the mark."""
    house = await billed(databases)
    await late(house, "5")
    await house.execute(
        "UPDATE test_clocks SET business_time = $1, target_time = $1", utc(2024, 9, 1) + 2 * HOUR
    )
    while await house.value("SELECT count(*) FROM invoices WHERE status = 'draft'") < 3:
        async with databases.worker.transaction() as tx:
            await run_due(tx, Share.ON_TEST_CLOCKS, batch_max=9, now=house.now)
        await house.deliver()

    await house.execute(
        "UPDATE test_clocks SET target_time = $1, business_time = $1", utc(2024, 9, 2)
    )
    scope = OnTestClocks(house.tenant_id)
    settings = FinalizationSettings()
    assert await finalize_due(databases.worker, settings, now=house.now, scope=scope) == 3

    assert await adjustments(house) == [(JULY, 50)]


@pytest.mark.parametrize("outage", [False, True])
async def test_an_outage_changes_nothing_about_which_invoice_adjusts(
    databases: Databases, *, outage: bool
) -> None:
    """A reissue of an old period is due half an hour behind the draft of a newer one, which takes the mark."""
    house = await billed(databases)
    may = await last(house)
    await house.advance(AUGUST + HOUR / 2)
    await late(house, "5", day=40)
    async with databases.api.transaction(house.tenant_id) as tx:
        order, cause = VoidOrder(), house.cause()
        await void_invoice(tx, house.tenant_id, may.row.id, order, cause, now=house.now)
    await house.deliver()

    if outage:
        await house.execute(
            "UPDATE test_clocks SET business_time = $1, target_time = $1", AUGUST + 2 * HOUR
        )
        scope = OnTestClocks(house.tenant_id)
        settings = FinalizationSettings()
        assert await finalize_due(databases.worker, settings, now=house.now, scope=scope) == 2
    else:
        await house.advance(AUGUST + 2 * HOUR)

    assert await adjustments(house) == [(AUGUST, 50)]


@pytest.mark.parametrize(("late_minutes", "net", "tax"), [("90", 810, 162), ("0", -90, -18)])
async def test_an_adjustment_carries_the_discount_and_the_tax_of_its_own_period(
    databases: Databases, late_minutes: str, net: int, tax: int
) -> None:
    """10 percent off and 20 percent tax in May; in June the discount is over and the tax is another."""
    house = await house_of(databases, START)
    customer = await house.customer("UA")
    await house.plan(per_minute="0.10")
    await house.subscribe()
    await house.execute(
        "INSERT INTO discounts (tenant_id, id, customer_id, display_name, percent, created_at)"
        " VALUES ($1, $2, $2, 'Ten', 10, $3)",
        house.tenant_id,
        customer,
        START,
    )
    await house.execute("UPDATE customers SET tax_percent = 20")
    await house.use(START + HOUR / 60, "10")
    await house.advance(JUNE + 2 * HOUR)
    await house.execute("UPDATE discounts SET ended_at = $1", JUNE + 2 * HOUR)
    await house.execute("UPDATE customers SET tax_percent = 7")
    if late_minutes == "0":
        await take_back(house, "10")
    await late(house, late_minutes)

    await house.advance(JULY + 2 * HOUR)

    _, adjustment = (await last(house)).lines
    assert adjustment.discount is not None
    assert adjustment.tax is not None
    assert (adjustment.amount - adjustment.discount).minor_units == net
    assert adjustment.tax.minor_units == tax
    if net < 0:
        balance = await house.value("SELECT balance FROM credit_balances")
        assert balance == -(net + tax)


async def test_what_is_given_back_has_no_part_of_the_discount_of_a_waived_invoice(
    databases: Databases,
) -> None:
    """5.00 of 10.00 was given off, then 20.00 more was billed; the first is waived and nothing was used after all."""
    house = await house_of(databases, START)
    customer = await house.customer("UA")
    await house.plan(per_minute="0.10")
    await house.subscribe()
    await house.execute(
        "INSERT INTO discounts"
        " (tenant_id, id, customer_id, display_name, amount, currency, periods, created_at)"
        " VALUES ($1, $2, $2, 'Five', 500, 'USD', 1, $3)",
        house.tenant_id,
        customer,
        START,
    )
    await house.use(START + HOUR / 60, "100")
    await house.advance(JUNE + 2 * HOUR)
    may = (await last(house)).row
    assert (may.discount, may.total) == (500, 500)
    await late(house, "200")
    await house.advance(JULY + 2 * HOUR)
    assert (await last(house)).row.total == 2000
    async with databases.api.transaction(house.tenant_id) as tx:
        order = VoidOrder(reissue=False)
        await void_invoice(tx, house.tenant_id, may.id, order, house.cause(), now=house.now)
    for quantity in ("100", "200"):
        await take_back(house, quantity)
    # Folds mark what they change; the records were voided behind their back.
    await late(house, "0")

    await house.advance(AUGUST + 2 * HOUR)

    row = (await last(house)).row
    assert (row.total, row.to_credit_balance) == (0, 2000)


async def test_what_was_given_back_of_an_amount_that_is_waived_then_is_charged_again(
    databases: Databases,
) -> None:
    """May: 10 minutes billed, 4 of them given back with June's invoice; then nobody pays May's."""
    house = await billed(databases)
    may = await last(house)
    key = await house.value("SELECT idempotency_key FROM usage_records")
    change, author = Amendment({"quantity"}, "6"), Author(house.cause(), "wrong", True)
    async with house.databases.api.transaction(house.tenant_id) as tx:
        await amend_usage(tx, house.tenant_id, key, change, author, now=house.now)
    await house.advance(JULY + 2 * HOUR)
    assert await adjustments(house) == [(JULY, -40)]
    async with house.databases.api.transaction(house.tenant_id) as tx:
        order, cause = VoidOrder(reissue=False), house.cause()
        await void_invoice(tx, house.tenant_id, may.row.id, order, cause, now=house.now)
    await house.advance(AUGUST + 2 * HOUR)
    assert await adjustments(house) == [(JULY, -40), (AUGUST, 40)]
