"""Invoice path, step 6: payments are recorded, not collected.

Invariant: an external reference stands for one payment of its tenant, for ever; every unit of it lowers an amount due
or is in the customer's credit balance.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import queries.payments
from queries.models import Payment
from tollway.invoice.v1 import payment_events_pb2

from billing.domain.errors import AlreadyExists
from billing.domain.ids import Prefix, encode
from billing.domain.money import Money
from billing.domain.totals import split_payment
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.business_time import business_time
from billing.services.credit_ledger import CreditKind
from billing.services.invoice_events import wire_money
from billing.services.settlement import give_credit, lock_final, settle


class PaymentReferenceUsed(AlreadyExists):
    """Another payment has this external reference; a payment of its own needs another one."""

    reason = "PAYMENT_REFERENCE_USED"


@dataclass(frozen=True, slots=True)
class NewPayment:
    """A payment to record. `paid_at` is business time; None means now."""

    invoice_id: UUID
    amount: Money
    external_reference: str
    paid_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PaymentFilter:
    """Which payments to list; None for all."""

    invoice_id: UUID | None = None
    customer_id: UUID | None = None


async def record_payment(
    tx: Connection, tenant_id: UUID, draft: NewPayment, cause: Cause, *, now: datetime
) -> Payment:
    """The payment; emits payment.recorded, and invoice.status.changed when it covers what is due.

    The same payment again answers with the first. Raises InvoiceNotFound, InvalidTransition, CurrencyMismatch, Invalid,
    PaymentReferenceUsed.
    """
    invoice = await lock_final(tx, tenant_id, draft.invoice_id, "paid", draft.amount.currency)
    applied, excess = split_payment(Money(invoice.amount_due, invoice.currency), draft.amount)
    at = await business_time(tx, tenant_id, now)
    payment = await queries.payments.insert_payment(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        invoice_id=invoice.id,
        customer_id=invoice.customer_id,
        external_reference=draft.external_reference,
        amount=draft.amount.minor_units,
        applied=applied.minor_units,
        currency=invoice.currency,
        paid_at=draft.paid_at or at,
        created_at=at,
    )
    if payment is None:
        return await _earlier(tx, tenant_id, draft)
    settled, told = await settle(
        tx, invoice, paid=applied, credited=Money.zero(invoice.currency), at=at, cause=cause
    )
    await give_credit(tx, invoice, CreditKind.PAYMENT_EXCESS, excess, at, now)
    payload = payment_events_pb2.PaymentRecorded(
        payment_id=encode(Prefix.PAYMENT, payment.id),
        invoice_id=encode(Prefix.INVOICE, invoice.id),
        customer_id=encode(Prefix.CUSTOMER, invoice.customer_id),
        amount=wire_money(payment.amount, payment.currency),
        to_credit_balance=wire_money(excess.minor_units, payment.currency),
        amount_due=wire_money(settled.amount_due, settled.currency),
    )
    resource = encode(Prefix.INVOICE, invoice.id)
    first = events.NewEvent(tenant_id, resource, invoice.version + 1, payload, at, cause)
    await events.emit(tx, [first, *told], now=now)
    return payment


async def _earlier(tx: Connection, tenant_id: UUID, draft: NewPayment) -> Payment:
    earlier = await queries.payments.get_payment_by_reference(
        tx, tenant_id=tenant_id, external_reference=draft.external_reference
    )
    assert earlier is not None, "payments are never deleted"
    same = (earlier.invoice_id, earlier.amount) == (draft.invoice_id, draft.amount.minor_units)
    if not same or (draft.paid_at is not None and draft.paid_at != earlier.paid_at):
        raise PaymentReferenceUsed(metadata={"payment": encode(Prefix.PAYMENT, earlier.id)})
    return earlier


async def list_payments(
    tx: Connection, tenant_id: UUID, wanted: PaymentFilter, *, before: UUID | None, limit: int
) -> list[Payment]:
    """At most `limit` payments, newest first, those recorded before the payment `before`."""
    return await queries.payments.list_payments(
        tx,
        tenant_id=tenant_id,
        before=before,
        invoice_id=wanted.invoice_id,
        customer_id=wanted.customer_id,
        page_max=limit,
    )
