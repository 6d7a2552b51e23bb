"""Random commands: what a tenant does to invoices."""

from __future__ import annotations

from billing.domain.errors import CreditExceedsInvoice
from billing.domain.invoice import InvoiceStatus
from billing.domain.money import Money
from billing.services.credit_notes import NewCreditNote, create_credit_note
from billing.services.finalize_now import announce, finalize_invoice
from billing.services.invoice_voids import VoidOrder, void_invoice
from billing.services.payments import NewPayment, record_payment
from tests.paths.billing_twins import Twins


async def finalize(twins: Twins) -> str:
    bill = twins.some_bill(InvoiceStatus.DRAFT)
    if bill is None:
        return ""
    identity, tenant = await twins.identity(bill), twins.tenant_id
    async with twins.transaction() as tx:
        await announce(tx, tenant, identity, twins.house.now)
    async with twins.transaction() as tx:
        await finalize_invoice(tx, tenant, identity, twins.house.cause(), now=twins.house.now)
    twins.books.finalize(bill)
    return f"finalize {bill.key} of {bill.customer}"


async def void(twins: Twins) -> str:
    bill = twins.some_bill(InvoiceStatus.OPEN)
    if bill is None or bill.paid or bill.credited:
        return ""
    order = VoidOrder(reissue=twins.chance.random() < 0.7)
    async with twins.transaction() as tx:
        await void_invoice(
            tx,
            twins.tenant_id,
            await twins.identity(bill),
            order,
            twins.house.cause(),
            now=twins.house.now,
        )
    twins.books.void(bill, reissue=order.reissue)
    return f"void {bill.key} of {bill.customer}, {order}"


async def pay(twins: Twins) -> str:
    """A part of what is due, all of it, or more."""
    bill = twins.some_bill(InvoiceStatus.OPEN, InvoiceStatus.PAID)
    if bill is None:
        return ""
    amount = twins.chance.choice([1, bill.due // 2, bill.due, bill.due + 1234]) or 777
    reference = f"payment-{next(twins.keys)}"
    draft = NewPayment(await twins.identity(bill), Money(amount, "USD"), reference)
    async with twins.transaction() as tx:
        await record_payment(tx, twins.tenant_id, draft, twins.house.cause(), now=twins.house.now)
    twins.books.pay(bill, amount)
    return f"pay {amount} of {bill.key} of {bill.customer}"


async def note(twins: Twins) -> str:
    """A credit note of a part of one line, or of all that is left of it."""
    bill = twins.some_bill(InvoiceStatus.OPEN, InvoiceStatus.PAID)
    lines = [line for line in bill.lines if line.net > line.credited] if bill else []
    if bill is None or not lines:
        return ""
    line = twins.chance.choice(lines)
    left = line.net - line.credited
    amount = twins.chance.choice([1, left // 2, left]) or 1
    number = next(n for n, one in enumerate(bill.lines, start=1) if one is line)
    draft = NewCreditNote(await twins.identity(bill), {number: amount}, "goodwill")
    try:
        async with twins.transaction() as tx:
            await create_credit_note(
                tx, twins.tenant_id, draft, twins.house.cause(), now=twins.house.now
            )
    except CreditExceedsInvoice:
        # Only where other lines lower the total below this one.
        assert any(other.amount < 0 for other in bill.lines)
        return f"note {amount} of {bill.key}: more than the invoice"
    twins.books.note(bill, line, amount)
    return f"note {amount} of line {number} of {bill.key} of {bill.customer}"
