"""Invoice path, step 5, on demand: a person makes one draft final, in its grace as well.

Invariant: it is the scheduler's finalization, of one draft, in the caller's transaction; what would block the scheduler
is the caller's error, and then nothing is changed.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import queries.finalization
import queries.subscriptions
from queries.models import Invoice

from billing.domain.errors import Conflict, Precondition
from billing.domain.ids import Prefix, encode
from billing.domain.invoice import InvoiceAction, InvoiceStatus, apply_lifecycle
from billing.runtime.db import Connection
from billing.services.actor import Cause
from billing.services.draft_claims import (
    Blocked,
    Claimed,
    billed_by,
)
from billing.services.finalization import finalize
from billing.services.invoices import read_invoice

# As long as the caller may wait for the rows; a flag that is left behind runs out.
ANNOUNCED_FOR: Final = timedelta(seconds=5)


class UsagePending(Precondition):
    """The customer has usage, accepted before the cycle closed, that is still on its way; try again in a moment."""

    reason = "USAGE_PENDING"


class RatingFailed(Precondition):
    """The amounts of the invoice cannot be computed."""

    reason = "RATING_FAILED"


class InvoiceEmpty(Precondition):
    """A manual invoice without items bills nothing and gets no number; add an item with AddInvoiceItem."""

    reason = "INVOICE_EMPTY"


class InvoiceBusy(Conflict):
    """Another finalization has the invoice in hand; read it again."""

    reason = "INVOICE_BUSY"


async def announce(tx: Connection, tenant_id: UUID, invoice_id: UUID, now: datetime) -> None:
    """Asks folds to keep off the draft's usage periods for a while. Commit it before `finalize_invoice`.

    Nothing rests on it but how long the finalization waits. Raises InvoiceNotFound.
    """
    draft = await read_invoice(tx, tenant_id, invoice_id)
    if draft.status != InvoiceStatus.DRAFT or await _is_usage_pending(tx, draft):
        return
    until = now + ANNOUNCED_FOR
    await queries.finalization.flag_closing(tx, closing_until=until, **billed_by([_claimed(draft)]))


async def finalize_invoice(
    tx: Connection, tenant_id: UUID, invoice_id: UUID, cause: Cause, *, now: datetime
) -> Invoice:
    """Makes a draft final now and waits for nobody but those who hold its rows; answers the final invoice.

    `now` is machine time. Raises InvoiceNotFound, InvalidTransition, UsagePending, RatingFailed, InvoiceEmpty,
    InvoiceBusy.
    """
    draft = await read_invoice(tx, tenant_id, invoice_id)
    if draft.subscription_id is not None:
        # The scheduler passes over a subscription that somebody holds; who asks for one waits.
        await queries.subscriptions.lock_subscriptions(
            tx, tenant_ids=[tenant_id], ids=[draft.subscription_id]
        )
        draft = await read_invoice(tx, tenant_id, invoice_id)
    apply_lifecycle(InvoiceStatus(draft.status), InvoiceAction.FINALIZE, now)
    done = await finalize(tx, [_claimed(draft)], now=now, cause=cause)
    match done.blocked.get(invoice_id):
        case Blocked.USAGE_PENDING:
            raise UsagePending(retry_after_s=1)
        case Blocked.RATING_FAILED:
            error = done.errors[invoice_id]
            raise RatingFailed(error.message, metadata={"cause": error.reason}) from error
        case Blocked.INVOICE_EMPTY:
            raise InvoiceEmpty(metadata={"invoice": encode(Prefix.INVOICE, invoice_id)})
    if not done.invoices:
        raise InvoiceBusy(retry_after_s=1)
    return done.invoices[0]


async def _is_usage_pending(tx: Connection, draft: Invoice) -> bool:
    pending = await queries.finalization.list_usage_pending(
        tx, tenant_ids=[draft.tenant_id], ids=[draft.id]
    )
    return bool(pending)


def _claimed(draft: Invoice) -> Claimed:
    return Claimed(draft.tenant_id, draft.id, draft.subscription_id, draft.kind, draft.boundary)
