"""Invoice path, after step 5: an open invoice is taken back, and made again unless it is waived.

Invariant: no usage stays unbilled and none is billed twice. Under the locks of the subscription and of every usage
period on its lines, a reissue sets the invoice's own periods back to unbilled, marks the others for the next invoice,
and makes a draft for the same key, in one transaction. A waived invoice keeps its key, and its amounts still count as
billed; of a fee on it no draft gives anything back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import queries.finalization
import queries.invoice_items
import queries.invoice_voids
import queries.invoices
import queries.subscriptions
from queries.models import Invoice, UsagePeriod

from billing.domain.invoice import InvoiceKind, InvoiceStatus, void
from billing.domain.money import Money
from billing.domain.usage import MACHINE as USAGE_PERIODS
from billing.domain.usage import UsagePeriodAction, UsagePeriodStatus
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import credit_ledger, events
from billing.services.actor import Cause, Link
from billing.services.business_time import business_time
from billing.services.invoice_drafts import GRACE_DEFAULT, generated
from billing.services.invoice_events import status_changes
from billing.services.invoices import read_invoice
from billing.services.quantity_reads import key_of

_REOPENABLE: Final = [str(status) for status in USAGE_PERIODS.sources(UsagePeriodAction.REOPEN)]
REASON_LENGTH_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class VoidOrder:
    """How to take an invoice back: made again after another grace, or waived; and why, for people."""

    reissue: bool = True
    reason: str = ""
    grace: timedelta = GRACE_DEFAULT


@dataclass(frozen=True, slots=True)
class Voided:
    """The void invoice, and the draft that replaces it, if any."""

    row: Invoice
    replacement: Invoice | None


async def void_invoice(
    tx: Connection,
    tenant_id: UUID,
    invoice_id: UUID,
    order: VoidOrder,
    cause: Cause,
    *,
    now: datetime,
) -> Voided:
    """Takes an open invoice back; emits invoice.status.changed, and invoice.generated for the draft that replaces it.

    `now` is machine time. Raises InvoiceNotFound, InvalidTransition, InvoicePartlyPaid.
    """
    row, periods = await _lock(tx, tenant_id, invoice_id)
    today = await business_time(tx, tenant_id, now)
    settled = Money(row.amount_paid + row.amount_credited, row.currency)
    status, _ = void(InvoiceStatus(row.status), settled, now)
    taken_back = await queries.invoice_voids.void_invoice(
        tx,
        tenant_id=tenant_id,
        id=invoice_id,
        from_status=row.status,
        waived=not order.reissue,
        at=today,
        reason=order.reason,
    )
    assert taken_back is not None, "the row is locked"
    await credit_ledger.return_applied(tx, taken_back, today, now=now)
    if row.causation_id is not None:
        cause = replace(cause, links=(Link(row.causation_id, row.correlation_id),))
    told = status_changes(taken_back, [InvoiceStatus(row.status), status], today, cause)
    (event_id,) = await events.emit(tx, told, now=now)
    if taken_back.subscription_id is not None:
        await queries.invoice_voids.delete_credits_of_waived_fees(
            tx, tenant_id=tenant_id, subscription_id=taken_back.subscription_id
        )
    why = Link(event_id, cause.correlation_id)
    if not order.reissue:
        await _look_again(tx, periods, why)
        return Voided(taken_back, None)
    await _unbill(tx, taken_back, periods, why)
    follow_up = replace(cause, causation_id=event_id, links=())
    again = await _draft_again(tx, taken_back, order.grace, follow_up, today, now=now)
    return Voided(taken_back, again)


async def _lock(
    tx: Connection, tenant_id: UUID, invoice_id: UUID
) -> tuple[Invoice, Sequence[UsagePeriod]]:
    """The invoice and the usage periods on its lines, locked in the house's order."""
    found = await read_invoice(tx, tenant_id, invoice_id)
    if found.subscription_id is not None:
        await queries.subscriptions.lock_subscriptions(
            tx, tenant_ids=[tenant_id], ids=[found.subscription_id]
        )
    periods = await queries.invoice_voids.lock_periods_of_invoice(
        tx, tenant_id=tenant_id, invoice_id=invoice_id
    )
    row = await queries.invoice_voids.lock_invoice(tx, tenant_id=tenant_id, id=invoice_id)
    assert row is not None, "invoices are never deleted once they are final, and this one was there"
    return row, periods


async def _unbill(
    tx: Connection, taken_back: Invoice, periods: Sequence[UsagePeriod], why: Link
) -> None:
    """Own periods are unbilled and due; those that the invoice adjusted are the next invoice's to adjust."""
    key = (taken_back.kind, taken_back.boundary)
    own = [row for row in periods if (row.bill_kind, row.bill_boundary) == key]
    others = [row for row in periods if row not in own and row.status == UsagePeriodStatus.BILLED]
    tenants, items, starts = _columns(own)
    await queries.invoice_voids.reopen_periods(
        tx,
        tenant_ids=tenants,
        item_ids=items,
        period_starts=starts,
        from_statuses=_REOPENABLE,
        to_status=UsagePeriodStatus.REPORTED,
    )
    # A mark to adjust stands on billed periods only: what it told of is billed with the period itself.
    await queries.finalization.delete_marks(
        tx, tenant_ids=tenants, item_ids=items, period_starts=starts
    )
    await _mark(tx, own, "due", why)
    await _mark(tx, others, "adjust", why)


async def _look_again(tx: Connection, periods: Sequence[UsagePeriod], why: Link) -> None:
    """What other invoices have given back of what is waived now is the next invoice's to charge again."""
    billed = [row for row in periods if row.status == UsagePeriodStatus.BILLED]
    tenants, items, starts = _columns(billed)
    carried = await queries.invoices.list_earlier_lines(
        tx, tenant_ids=tenants, item_ids=items, period_starts=starts
    )
    elsewhere = {(line.item_id, line.period_start) for line in carried if not line.waived}
    corrected = [row for row in billed if (row.item_id, row.period_start) in elsewhere]
    await _mark(tx, corrected, "adjust", why)


async def _mark(tx: Connection, rows: Sequence[UsagePeriod], kind: str, why: Link) -> None:
    tenants, items, starts = _columns(rows)
    await queries.invoice_voids.mark_periods(
        tx,
        tenant_ids=tenants,
        item_ids=items,
        period_starts=starts,
        subscription_ids=[row.subscription_id for row in rows],
        kinds=[kind] * len(rows),
        event_id=why.event_id,
        correlation_id=why.correlation_id,
    )


def _columns(rows: Sequence[UsagePeriod]) -> tuple[list[UUID], list[UUID], list[datetime]]:
    keys = [key_of(row) for row in rows]
    return (
        [key.tenant_id for key in keys],
        [key.item_id for key in keys],
        [key.period_start for key in keys],
    )


async def _draft_again(
    tx: Connection,
    taken_back: Invoice,
    grace: timedelta,
    cause: Cause,
    today: datetime,
    *,
    now: datetime,
) -> Invoice:
    """A draft for the same key, with the items that people had put there; a manual one waits for somebody again."""
    assert cause.causation_id is not None, "it follows from the void"
    draft = await queries.invoice_voids.reissue_invoice(
        tx,
        tenant_id=taken_back.tenant_id,
        id=taken_back.id,
        new_id=new_id(now),
        at=today,
        finalize_at=None if taken_back.kind == InvoiceKind.MANUAL else today + grace,
        correlation_id=cause.correlation_id,
        causation_id=cause.causation_id,
    )
    assert draft is not None, "the invoice has just been made void"
    await queries.invoice_items.move_invoice_items(
        tx, tenant_id=draft.tenant_id, from_invoice_id=taken_back.id, to_invoice_id=draft.id
    )
    await events.emit(tx, [generated(draft, cause)], now=now)
    return draft
