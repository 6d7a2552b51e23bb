"""Invoice path, step 6: what payments and credit notes take from the amount due of a final invoice.

Invariant: amount due = total - credit applied - paid - credited, never below zero; with nothing due an open invoice is
paid, in the same transaction, and says so.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import queries.payments
from queries.models import Invoice

from billing.domain.errors import CurrencyMismatch, InvalidTransition
from billing.domain.ids import Prefix, encode
from billing.domain.invoice import InvoiceAction, InvoiceStatus, apply_lifecycle
from billing.domain.money import Money
from billing.runtime.db import Connection
from billing.services import credit_ledger
from billing.services.actor import Cause
from billing.services.credit_ledger import CreditKind, Entry
from billing.services.events import NewEvent
from billing.services.invoice_events import status_changes
from billing.services.invoices import InvoiceNotFound

_SETTLED = (InvoiceStatus.OPEN, InvoiceStatus.PAID)


async def lock_final(
    tx: Connection, tenant_id: UUID, invoice_id: UUID, action: str, currency: str = ""
) -> Invoice:
    """The invoice, locked, open or paid. Raises InvoiceNotFound, InvalidTransition, CurrencyMismatch."""
    row = await queries.payments.lock_invoice_to_settle(tx, tenant_id=tenant_id, id=invoice_id)
    if row is None:
        raise InvoiceNotFound(metadata={"invoice": encode(Prefix.INVOICE, invoice_id)})
    if row.status not in _SETTLED:
        raise InvalidTransition(
            f"An invoice that is {row.status} cannot be {action}; only open and paid ones can.",
            metadata={"entity": "invoice", "state": row.status, "action": action},
        )
    if currency and currency != row.currency:
        raise CurrencyMismatch(
            f"The invoice is in {row.currency}, not in {currency}.",
            metadata={"expected": row.currency, "actual": currency},
        )
    return row


async def settle(
    tx: Connection, invoice: Invoice, *, paid: Money, credited: Money, at: datetime, cause: Cause
) -> tuple[Invoice, list[NewEvent]]:
    """The invoice with so much less due, and the event of its becoming paid, if it does.

    Draws one version for the fact that the caller tells first, and one for the change of status.
    """
    old = InvoiceStatus(invoice.status)
    statuses = [old]
    left = invoice.amount_due - paid.minor_units - credited.minor_units
    if old is InvoiceStatus.OPEN and not left:
        statuses.append(apply_lifecycle(old, InvoiceAction.SETTLE, at)[0])
    settled = await queries.payments.settle_invoice(
        tx,
        tenant_id=invoice.tenant_id,
        id=invoice.id,
        old_status=old,
        new_status=statuses[-1],
        amount_paid=invoice.amount_paid + paid.minor_units,
        amount_credited=invoice.amount_credited + credited.minor_units,
        amount_due=left,
        events=len(statuses),
    )
    assert settled is not None, "the caller holds its lock"
    return settled, status_changes(settled, statuses, at, cause)


async def give_credit(
    tx: Connection, invoice: Invoice, kind: CreditKind, amount: Money, at: datetime, now: datetime
) -> None:
    """What is more than was due goes to the customer's balance. For callers that hold the invoice's lock."""
    if not amount:
        return
    await credit_ledger.lock_balances(
        tx, [(invoice.tenant_id, invoice.customer_id, invoice.currency)]
    )
    entry = Entry(invoice.tenant_id, invoice.customer_id, kind, amount, at, invoice.id)
    await credit_ledger.append(tx, [entry], now=now)
