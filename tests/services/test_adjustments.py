"""Adjustments: what comes late for a billed period is on the next invoice, as one line of the difference."""

from __future__ import annotations

from dataclasses import replace

from billing.domain.period import Period
from billing.services.draft_claims import FinalizationSettings, OnTestClocks
from billing.services.due_subscriptions import Share, run_due
from billing.services.finalization import finalize_due
from billing.services.invoice_line import LineKind
from billing.services.invoices import InvoiceView
from tests.conftest import Databases
from tests.driver import DAY, HOUR, Driver, house_of, utc

START = utc(2024, 5, 1)
JUNE = utc(2024, 6, 1)
JULY = utc(2024, 7, 1)
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


async def last(house: Driver) -> InvoiceView:
    return await house.view((await house.invoices())[-1]["id"])


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
    # Voided and amended usage goes the same way; here the record is taken back behind the invoice's back.
    await house.execute(
        "INSERT INTO usage_records (tenant_id, idempotency_key, batch_id, root_key, revision, voided, meter_id,"
        " customer_id, used_at, quantity, accepted_at, folded, item_id, period_start)"
        " SELECT tenant_id, 'void', batch_id, idempotency_key, 1, true, meter_id, customer_id, used_at, quantity,"
        " accepted_at, true, item_id, period_start FROM usage_records WHERE quantity = 10"
    )
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

    lines = await house.rows(
        "SELECT i.boundary, l.amount FROM invoice_lines l"
        " JOIN invoices i ON i.tenant_id = l.tenant_id AND i.id = l.invoice_id WHERE l.kind = 'adjustment'"
    )
    assert [(row["boundary"], row["amount"]) for row in lines] == [(JULY, 50)]
