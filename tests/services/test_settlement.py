"""Payments and credit notes: everything that comes in lowers what is due or is in the balance, once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import Any, Final
from uuid import UUID

import pytest
from queries.models import Payment

from billing.domain.errors import (
    BillingError,
    CreditExceedsInvoice,
    CreditExceedsLine,
    CurrencyMismatch,
    InvalidTransition,
)
from billing.domain.ids import Prefix, encode
from billing.domain.money import Money
from billing.services import credit_ledger
from billing.services.credit import CreditBalanceTooLow, CreditChange, change_credit
from billing.services.credit_ledger import CreditKind
from billing.services.credit_notes import CreditNoteView, NewCreditNote, create_credit_note
from billing.services.invoice_voids import VoidOrder, void_invoice
from billing.services.payments import NewPayment, PaymentReferenceUsed, record_payment
from tests.conftest import LONG, Databases
from tests.driver import Driver, house_of

INTERLEAVINGS: Final = 40 if LONG else 3


async def opened(databases: Databases, fee: str = "100.00") -> tuple[Driver, UUID]:
    """A tenant with one open invoice of a fee and 20 % tax, and its id."""
    house = await house_of(databases, mode="live")
    await house.customer("UA")
    await house.plan(fee=fee)
    await house.execute("UPDATE customers SET tax_percent = 20")
    await house.subscribe()
    await house.settle()
    await house.make_final()
    (invoice,) = await house.invoices()
    assert invoice["status"] == "open"
    return house, invoice["id"]


async def pay(house: Driver, invoice: UUID, units: int, reference: str, **more: Any) -> Payment:
    draft = NewPayment(invoice, Money(units, more.pop("currency", "USD")), reference, **more)
    async with house.databases.api.transaction(house.tenant_id) as tx:
        return await record_payment(tx, house.tenant_id, draft, house.cause(), now=house.now)


async def credit(house: Driver, invoice: UUID, units: int, line: int = 1) -> CreditNoteView:
    draft = NewCreditNote(invoice, {line: units}, "Outage")
    async with house.databases.api.transaction(house.tenant_id) as tx:
        return await create_credit_note(tx, house.tenant_id, draft, house.cause(), now=house.now)


async def take_back(house: Driver, invoice: UUID) -> None:
    order = VoidOrder(False, "wrong")
    async with house.databases.api.transaction(house.tenant_id) as tx:
        await void_invoice(tx, house.tenant_id, invoice, order, house.cause(), now=house.now)


async def only(house: Driver) -> Any:
    (invoice,) = await house.invoices()
    return invoice


async def balance(house: Driver) -> int:
    """What the customer has in hand; the same as the ledger's sum, and as its last entry says."""
    row = (
        await house.rows(
            "SELECT (SELECT coalesce(sum(balance), 0)::bigint FROM credit_balances),"
            " (SELECT coalesce(sum(amount), 0)::bigint FROM credit_ledger),"
            " coalesce((SELECT balance_after FROM credit_ledger ORDER BY sequence DESC LIMIT 1), 0)"
        )
    )[0]
    assert row[0] == row[1] == row[2]
    return int(row[0])


async def test_partial_payments_cover_an_invoice_and_the_excess_is_kept(
    databases: Databases,
) -> None:
    house, invoice = await opened(databases)

    await pay(house, invoice, 5000, "bank-1")
    assert ((await only(house))["status"], (await only(house))["amount_due"]) == ("open", 7000)
    last = await pay(house, invoice, 9000, "bank-2")

    row = await only(house)
    assert (row["status"], row["amount_due"], row["amount_paid"]) == ("paid", 0, 12000)
    assert (last.amount, last.applied) == (9000, 7000)
    assert await balance(house) == 2000
    resource = encode(Prefix.INVOICE, invoice)
    assert (await house.subjects(resource))[-4:] == [
        "invoice.status.changed",
        "payment.recorded",
        "payment.recorded",
        "invoice.status.changed",
    ]
    versions = await house.versions(resource)
    assert versions == list(range(1, row["version"] + 1))
    # What comes in after that is kept as well.
    assert (await pay(house, invoice, 300, "bank-3")).applied == 0
    assert await balance(house) == 2300


async def test_a_reference_stands_for_one_payment_however_often_and_wherever_it_is_sent(
    databases: Databases,
) -> None:
    house, invoice = await opened(databases)

    sent = await asyncio.gather(*(pay(house, invoice, 5000, "bank-1") for _ in range(4)))

    assert len({payment.id for payment in sent}) == 1
    assert (await only(house))["amount_paid"] == 5000
    with pytest.raises(PaymentReferenceUsed) as refusal:
        await pay(house, invoice, 4999, "bank-1")
    assert refusal.value.metadata == {"payment": encode(Prefix.PAYMENT, sent[0].id)}
    with pytest.raises(CurrencyMismatch):
        await pay(house, invoice, 1, "bank-2", currency="EUR")
    told = "SELECT count(*) FROM billing_events WHERE subject = 'payment.recorded'"
    assert await house.value(told) == 1


async def test_a_credit_note_lowers_what_is_due_first_and_carries_its_tax(
    databases: Databases,
) -> None:
    house, invoice = await opened(databases)
    await pay(house, invoice, 11000, "bank-1")

    first = await credit(house, invoice, 333)
    second = await credit(house, invoice, 2000)

    assert [note.row.number for note in (first, second)] == ["CN-000001", "CN-000002"]
    assert (first.row.net, first.row.tax, first.row.lowers_due) == (333, 67, 400)
    assert (second.row.lowers_due, second.row.to_credit_balance) == (600, 1800)
    row = await only(house)
    assert (row["status"], row["amount_due"], row["amount_credited"]) == ("paid", 0, 1000)
    assert await balance(house) == 1800
    with pytest.raises(CreditExceedsLine, match=r"76\.67 USD left"):
        await credit(house, invoice, 7668)
    rest = await credit(house, invoice, 7667)
    assert first.row.tax + second.row.tax + rest.row.tax == 2000
    assert first.parties.buyer.name == "UA"
    assert first.lines[0].description == "Fee"


async def test_two_notes_at_once_never_take_more_than_the_line(databases: Databases) -> None:
    house, invoice = await opened(databases)

    outcomes = await asyncio.gather(
        *(credit(house, invoice, 6000) for _ in range(4)), return_exceptions=True
    )

    made = [one for one in outcomes if isinstance(one, CreditNoteView)]
    assert len(made) == 1
    assert all(
        isinstance(one, CreditExceedsLine | CreditExceedsInvoice)
        for one in outcomes
        if one not in made
    )
    assert (await only(house))["amount_due"] == 12000 - 7200
    assert await house.value("SELECT last FROM invoice_sequences WHERE kind = 'credit_note'") == 1


async def test_drafts_and_void_invoices_take_no_payment_and_no_note(databases: Databases) -> None:
    house, invoice = await opened(databases)
    await house.execute("UPDATE invoices SET status = 'void', voided_at = now()")
    for attempt in (pay(house, invoice, 1, "bank-1"), credit(house, invoice, 1)):
        with pytest.raises(InvalidTransition):
            await attempt


async def test_a_balance_is_granted_corrected_and_never_overdrawn(databases: Databases) -> None:
    house = await house_of(databases, mode="live")
    customer = await house.customer("UA")

    async def change(units: int, kind: CreditKind = CreditKind.ADJUSTMENT) -> None:
        wanted = CreditChange(customer, kind, Money(units, "EUR"), "because")
        async with house.databases.api.transaction(house.tenant_id) as tx:
            await change_credit(tx, house.tenant_id, wanted, house.cause(), now=house.now)

    await change(1000, CreditKind.GRANT)
    await change(-400)
    outcomes = await asyncio.gather(*(change(-400) for _ in range(3)), return_exceptions=True)

    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, CreditBalanceTooLow) for outcome in outcomes) == 2
    assert await balance(house) == 200
    resource = encode(Prefix.CUSTOMER, customer)
    assert await house.subjects(resource) == ["customer.created", *["credit_balance.adjusted"] * 3]
    assert await house.versions(resource) == [1, 2, 3, 4]


async def test_voiding_gives_applied_credit_back(databases: Databases) -> None:
    house = await house_of(databases, mode="live")
    customer = await house.customer("UA")
    await house.plan(fee="100.00")
    wanted = CreditChange(customer, CreditKind.GRANT, Money(2500, "USD"), "because")
    async with house.databases.api.transaction(house.tenant_id) as tx:
        await change_credit(tx, house.tenant_id, wanted, house.cause(), now=house.now)
    await house.subscribe()
    await house.settle()
    await house.make_final()
    assert ((await only(house))["amount_due"], await balance(house)) == (7500, 0)

    view = await house.view((await only(house))["id"])
    async with house.databases.worker.transaction() as tx:
        await credit_ledger.return_applied(tx, view.row, house.now, now=house.now)

    assert await balance(house) == 2500


@pytest.mark.parametrize("seed", range(INTERLEAVINGS))
async def test_whatever_comes_at_once_the_books_add_up(databases: Databases, seed: int) -> None:
    chance = random.Random(seed)
    house, invoice = await opened(databases, fee="10.00")
    actions: list[Awaitable[Any]] = [take_back(house, invoice)] if chance.random() < 0.5 else []
    for n in range(16):
        units = chance.randint(1, 500)
        if chance.random() < 0.5:
            actions.append(pay(house, invoice, units, f"bank-{n // 2}"))
        else:
            actions.append(credit(house, invoice, units))

    outcomes = await asyncio.gather(*actions, return_exceptions=True)

    refused = [one for one in outcomes if isinstance(one, BaseException)]
    assert all(isinstance(one, BillingError) for one in refused), refused
    row = await only(house)
    if row["status"] == "void":
        assert (
            await house.value(
                "SELECT (SELECT count(*) FROM payments) + (SELECT count(*) FROM credit_notes)"
            )
            == 0
        )
        assert await balance(house) == 0
        return
    paid = await house.value("SELECT coalesce(sum(amount), 0)::bigint FROM payments")
    noted = await house.value("SELECT coalesce(sum(total), 0)::bigint FROM credit_notes")
    assert noted <= row["total"] == 1200
    assert row["amount_due"] == 1200 - row["amount_paid"] - row["amount_credited"] >= 0
    assert (row["status"] == "paid") == (row["amount_due"] == 0)
    assert await balance(house) == paid + noted - row["amount_paid"] - row["amount_credited"]
    numbers = await house.rows("SELECT number FROM credit_notes ORDER BY number")
    assert [note["number"] for note in numbers] == [
        f"CN-{n:06}" for n in range(1, len(numbers) + 1)
    ]
