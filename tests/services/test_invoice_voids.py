"""Taking invoices back: made again, nothing stays unbilled; waived, nothing is billed twice."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from billing.domain.errors import InvalidTransition, InvoicePartlyPaid
from billing.domain.ids import Prefix, encode
from billing.services.invoice_drafts import draft_for_cycles
from billing.services.invoice_voids import Voided, VoidOrder, void_invoice
from billing.services.invoices import InvoiceNotFound, InvoiceView
from billing.services.subscription_edits import ItemChange, Proration
from tests.conftest import Databases
from tests.desk import Desk
from tests.driver import DAY, HOUR, Driver, house_of, incoming_of, utc

START = utc(2024, 5, 1)
JUNE = utc(2024, 6, 1)
JULY = utc(2024, 7, 1)
AUGUST = utc(2024, 8, 1)
WAIVE = VoidOrder(reissue=False, reason="goodwill")


async def billed(databases: Databases) -> Driver:
    """A tenant whose May is final with 10 minutes at 0.10 and June's fee of 49.00."""
    house = await house_of(databases, START)
    await house.customer("UA")
    await house.plan(fee="49.00", per_minute="0.10")
    await house.subscribe()
    await house.use(START + HOUR / 60, "10")
    await house.advance(JUNE + 2 * HOUR)
    return house


async def void(house: Driver, invoice_id: UUID, order: VoidOrder | None = None) -> Voided:
    async with house.databases.api.transaction(house.tenant_id) as tx:
        return await void_invoice(
            tx, house.tenant_id, invoice_id, order or VoidOrder(), house.cause(), now=house.now
        )


async def late(house: Driver, quantity: str) -> None:
    await house.use(START + 7 * DAY, quantity, backfill=True)
    await house.deliver()


async def of_boundary(house: Driver, boundary: Any) -> list[InvoiceView]:
    rows = await house.rows(
        "SELECT id FROM invoices WHERE tenant_id = $1 AND boundary = $2 ORDER BY id",
        house.tenant_id,
        boundary,
    )
    return [await house.view(row["id"]) for row in rows]


def amounts(view: InvoiceView) -> list[int]:
    return [line.amount.minor_units for line in view.lines]


async def test_a_void_invoice_is_made_again_with_all_that_is_recorded_by_then(
    databases: Databases,
) -> None:
    house = await billed(databases)
    (may,) = await of_boundary(house, JUNE)
    await late(house, "5")

    voided = await void(house, may.row.id, VoidOrder(reason="wrong address"))
    assert (voided.row.status, voided.row.waived, voided.row.amount_due) == ("void", False, 0)
    assert voided.replacement is not None
    assert voided.replacement.replaces == may.row.id
    assert voided.replacement.finalize_at == JUNE + 3 * HOUR
    await house.advance(JUNE + 4 * HOUR)

    old, new = await of_boundary(house, JUNE)
    assert (old.row.number, old.row.void_reason, amounts(old)) == (
        may.row.number,
        "wrong address",
        amounts(may),
    )
    assert (new.row.status, amounts(new)) == ("open", [150, 4900])
    resource = encode(Prefix.INVOICE, old.row.id)
    assert (await house.subjects(resource))[-1] == "invoice.status.changed"
    assert await house.versions(resource) == [1, 2, 3]
    told = await house.subjects(encode(Prefix.INVOICE, new.row.id))
    assert told == ["invoice.generated", "invoice.status.changed"]
    assert (
        await house.value(
            "SELECT count(*) FROM usage_period_marks WHERE tenant_id = $1", house.tenant_id
        )
        == 0
    )


async def test_a_void_invoice_gives_its_adjustments_back_to_the_next(databases: Databases) -> None:
    house = await billed(databases)
    await late(house, "5")
    await house.advance(JULY + 2 * HOUR)
    (june,) = await of_boundary(house, JULY)
    assert amounts(june) == [0, 50, 4900]
    await void(house, june.row.id)
    await house.execute("UPDATE invoices SET finalize_at = $1 WHERE status = 'draft'", AUGUST + DAY)

    await house.advance(AUGUST + 2 * HOUR)
    (july,) = await of_boundary(house, AUGUST)
    assert amounts(july) == [0, 50, 4900]
    await house.advance(AUGUST + 2 * DAY)

    _, again = await of_boundary(house, JULY)
    assert amounts(again) == [0, 4900]


async def test_a_reissue_takes_off_what_another_invoice_adjusted_meanwhile(
    databases: Databases,
) -> None:
    house = await billed(databases)
    (may,) = await of_boundary(house, JUNE)
    await late(house, "5")
    await house.advance(JULY + 2 * HOUR)
    await void(house, may.row.id)
    await house.advance(JULY + 4 * HOUR)
    _, again = await of_boundary(house, JUNE)
    # 15 minutes, of which June's invoice has 0.50.
    assert amounts(again) == [100, 4900]
    assert [one.amount.minor_units for one in again.lines[0].derivation.earlier] == [50]


async def test_a_waived_invoice_is_not_made_again_and_only_more_usage_is_billed(
    databases: Databases,
) -> None:
    house = await billed(databases)
    (may,) = await of_boundary(house, JUNE)
    voided = await void(house, may.row.id, WAIVE)
    assert (voided.row.waived, voided.replacement) == (True, None)
    # The cycle's event comes once more: the key still counts, so it makes no second invoice.
    (closed,) = await house.rows(
        "SELECT * FROM billing_events WHERE subject = 'billing.cycle.closed' ORDER BY id DESC LIMIT 1"
    )
    async with databases.worker.transaction() as tx:
        await draft_for_cycles(tx, [incoming_of(closed)], house.now)
    await late(house, "5")
    await house.advance(JULY + 2 * HOUR)
    (june,) = await of_boundary(house, JULY)
    assert amounts(june) == [0, 50, 4900]
    assert len(await of_boundary(house, JUNE)) == 1


async def test_a_void_invoice_returns_the_credit_that_it_had_used(databases: Databases) -> None:
    house = await billed(databases)
    (may,) = await of_boundary(house, JUNE)
    await house.execute(
        "UPDATE credit_balances SET balance = 700 WHERE tenant_id = $1 AND customer_id = $2",
        house.tenant_id,
        may.row.customer_id,
    )
    await house.advance(JULY + 2 * HOUR)
    (june,) = await of_boundary(house, JULY)
    assert june.row.credit_applied == 700
    await void(house, june.row.id, WAIVE)
    assert await house.value("SELECT balance FROM credit_balances") == 700


async def test_only_an_open_invoice_without_payments_is_taken_back(databases: Databases) -> None:
    house = await billed(databases)
    (may,) = await of_boundary(house, JUNE)
    with pytest.raises(InvoiceNotFound):
        await void(house, house.tenant_id)
    await house.execute(
        "UPDATE invoices SET amount_paid = 100, amount_due = amount_due - 100 WHERE id = $1",
        may.row.id,
    )
    with pytest.raises(InvoicePartlyPaid):
        await void(house, may.row.id)
    await house.advance(JULY + HOUR / 2)
    (draft,) = await of_boundary(house, JULY)
    with pytest.raises(InvalidTransition):
        await void(house, draft.row.id)


async def test_of_two_voids_at_once_one_is_refused_and_one_draft_is_made(
    databases: Databases,
) -> None:
    house = await billed(databases)
    (may,) = await of_boundary(house, JUNE)
    outcomes = await asyncio.gather(
        void(house, may.row.id), void(house, may.row.id, WAIVE), return_exceptions=True
    )
    refused = [one for one in outcomes if isinstance(one, InvalidTransition)]
    done = [one for one in outcomes if isinstance(one, Voided)]
    assert (len(refused), len(done)) == (1, 1)
    drafts = await house.value("SELECT count(*) FROM invoices WHERE status = 'draft'")
    assert drafts == (0 if done[0].row.waived else 1)


async def test_a_void_while_the_invoice_is_paid_waits_and_is_refused(databases: Databases) -> None:
    house = await billed(databases)
    (may,) = await of_boundary(house, JUNE)
    async with databases.worker.transaction() as tx:
        await tx.execute(
            "UPDATE invoices SET status = 'paid', amount_paid = amount_due, amount_due = 0 WHERE id = $1",
            may.row.id,
        )
        voiding = asyncio.create_task(void(house, may.row.id))
        while not await house.value(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        ):
            assert not voiding.done()
            await asyncio.sleep(0)
    with pytest.raises(InvalidTransition):
        await voiding
    assert (await of_boundary(house, JUNE))[0].row.status == "paid"


async def test_a_manual_invoice_is_made_again_with_its_items(databases: Databases) -> None:
    house = await billed(databases)
    (may,) = await of_boundary(house, JUNE)
    invoice = UUID(int=may.row.id.int + 1)
    await house.execute(
        "INSERT INTO invoices (tenant_id, id, customer_id, kind, boundary, currency, closed_at, finalize_at,"
        " correlation_id, created_at) VALUES ($1, $2, $3, 'manual', $4, 'USD', $4, $4, $2, $4)",
        house.tenant_id,
        invoice,
        may.row.customer_id,
        JUNE,
    )
    await house.execute(
        "INSERT INTO invoice_items (tenant_id, id, customer_id, invoice_id, description, quantity, unit_amount, amount,"
        " currency, created_at) VALUES ($1, $2, $3, $2, 'Onboarding', 1, 250, 25000, 'USD', $4)",
        house.tenant_id,
        invoice,
        may.row.customer_id,
        JUNE,
    )
    await house.advance(JUNE + 3 * HOUR)
    voided = await void(house, invoice)
    assert voided.row.total == 25000
    assert voided.replacement is not None
    assert voided.replacement.finalize_at is None
    again = await house.view(voided.replacement.id)
    assert amounts(again) == [25000]


async def test_the_grace_of_a_reissue_is_as_long_as_is_asked(databases: Databases) -> None:
    house = await billed(databases)
    (may,) = await of_boundary(house, JUNE)
    voided = await void(house, may.row.id, VoidOrder(grace=timedelta(days=1)))
    assert voided.replacement is not None
    assert voided.replacement.finalize_at == JUNE + 2 * HOUR + DAY


async def charged(databases: Databases) -> tuple[Desk, UUID, UUID]:
    """May's fee of 31.00 is charged and open, and 15 of its 31 days are over; subscription and item."""
    house = await house_of(databases, START)
    await house.customer("UA")
    await house.plan(fee="31.00")
    desk = Desk(house)
    made = await desk.subscribe()
    await house.advance(START + 15 * DAY)
    return desk, made.row.id, made.items[0].id


async def waive_the_charge(house: Driver) -> None:
    (charge,) = await house.rows("SELECT id, status FROM invoices WHERE kind = 'activation'")
    assert charge["status"] == "open"
    await void(house, charge["id"], WAIVE)


async def credit(house: Driver) -> int:
    return int(await house.value("SELECT coalesce(sum(amount), 0)::bigint FROM credit_ledger"))


async def test_a_fee_that_is_waived_after_its_cancellation_is_not_given_back(
    databases: Databases,
) -> None:
    desk, subscription, _ = await charged(databases)
    await desk.cancel(subscription)
    await desk.house.deliver()
    await waive_the_charge(desk.house)
    await desk.house.advance(JUNE)
    assert await desk.lines("final") == []
    assert await credit(desk.house) == 0


@pytest.mark.parametrize(
    ("proration", "kind", "amounts"),
    [(Proration.AT_ONCE, "change", [32_00]), (Proration.NEXT_INVOICE, "period", [32_00, 62_00])],
)
async def test_a_fee_that_is_waived_after_a_change_is_not_given_back(
    databases: Databases, proration: Proration, kind: str, amounts: list[int]
) -> None:
    desk, subscription, item = await charged(databases)
    await desk.change(subscription, ItemChange(item, quantity="2"), proration=proration)
    await desk.house.deliver()
    await waive_the_charge(desk.house)
    await desk.house.advance(JUNE + 2 * HOUR)
    assert [amount for _, amount in await desk.lines(kind)] == amounts


async def test_a_reissue_gives_nothing_back_of_a_fee_that_was_waived_meanwhile(
    databases: Databases,
) -> None:
    desk, subscription, item = await charged(databases)
    house = desk.house
    await desk.change(subscription, ItemChange(item, quantity="2"))
    await house.advance(START + 16 * DAY)
    await waive_the_charge(house)
    # It is final, and stays as it is; but it is taken back as well.
    assert [amount for _, amount in await desk.lines("change")] == [-16_00, 32_00]
    change = await house.value("SELECT id FROM invoices WHERE kind = 'change'")
    again = (await void(house, change)).replacement
    assert again is not None
    await house.advance(START + 17 * DAY)
    assert amounts(await house.view(again.id)) == [32_00]
