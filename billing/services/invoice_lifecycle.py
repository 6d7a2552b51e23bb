"""Invoice path, steps 5 and 6: one step of an invoice's lifecycle, asked for by name.

Invariant: the table of transitions decides, and the use case that owns the step takes it: so a step tells what it tells
when it comes by itself, and nothing is paid that is still due.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from queries.models import Invoice

from billing.domain.errors import Precondition
from billing.domain.ids import Prefix, encode
from billing.domain.invoice import InvoiceAction, InvoiceStatus, apply_lifecycle
from billing.domain.money import Money
from billing.runtime.db import Connection
from billing.services import finalize_now
from billing.services.actor import Cause
from billing.services.invoice_voids import VoidOrder, void_invoice
from billing.services.invoices import read_invoice


class AmountStillDue(Precondition):
    """An invoice is paid when nothing of it is due; record the payment or issue a credit note."""

    reason = "AMOUNT_STILL_DUE"


async def move_invoice(
    tx: Connection,
    tenant_id: UUID,
    invoice_id: UUID,
    action: InvoiceAction,
    cause: Cause,
    *,
    now: datetime,
) -> Invoice | None:
    """Takes one step; answers the draft that a void invoice is made again as, if any.

    For FINALIZE commit `finalize_now.announce` before. Raises InvoiceNotFound, InvalidTransition, UsagePending,
    RatingFailed, InvoiceBusy, InvoicePartlyPaid, AmountStillDue.
    """
    match action:
        case InvoiceAction.FINALIZE:
            await finalize_now.finalize_invoice(tx, tenant_id, invoice_id, cause, now=now)
            return None
        case InvoiceAction.VOID:
            order = VoidOrder()
            return (
                await void_invoice(tx, tenant_id, invoice_id, order, cause, now=now)
            ).replacement
        case InvoiceAction.SETTLE:
            raise _refusal(await read_invoice(tx, tenant_id, invoice_id), now)


def _refusal(row: Invoice, now: datetime) -> AmountStillDue:
    """An open invoice has something due, by a constraint: what covers it makes it paid in its own transaction."""
    apply_lifecycle(InvoiceStatus(row.status), InvoiceAction.SETTLE, now)
    due = Money(row.amount_due, row.currency)
    return AmountStillDue(
        f"{due} of the invoice is still due; record the payment or issue a credit note.",
        metadata={"invoice": encode(Prefix.INVOICE, row.id), "amount_due": str(due)},
    )
