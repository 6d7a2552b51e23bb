"""Usage path, steps 3 and 4: one step of a usage period's lifecycle, asked for by name.

Invariant: the table of transitions decides, and the use case that owns the step takes it. A period is billed only by
the invoice of its boundary, and unbilled only together with all of that invoice.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import queries.invoice_explain
import queries.rating
from queries.models import UsagePeriod

from billing.domain.errors import NotFound, Precondition
from billing.domain.ids import Prefix, encode
from billing.domain.usage import UsagePeriodAction, UsagePeriodStatus, apply_lifecycle
from billing.runtime.db import Connection
from billing.services.actor import Cause
from billing.services.finalize_now import RatingFailed
from billing.services.invoice_voids import VoidOrder, void_invoice
from billing.services.rating import rate_now
from billing.services.rating_failures import retry_rating


class UsagePeriodNotFound(NotFound):
    """There is no usage period of this item that starts then; GetCharges shows the items and their periods."""

    reason = "USAGE_PERIOD_NOT_FOUND"


class NothingToRate(Precondition):
    """No usage has come to the period since it was last rated; what was just accepted is folded in a moment."""

    reason = "NOTHING_TO_RATE"


class BilledByInvoice(Precondition):
    """A usage period is billed by the invoice of its boundary alone; finalize that."""

    reason = "BILLED_BY_INVOICE"


async def move_usage_period(
    tx: Connection, tenant_id: UUID, period: tuple[UUID, datetime], action: UsagePeriodAction, cause: Cause, *,
    now: datetime,
) -> UsagePeriod:  # fmt: skip
    """Takes one step of the period of an item that starts at an instant; emits what the step tells.

    Rating it rates all that is due of its subscription. Reopening it voids the invoice that billed it, and makes that
    again. Raises UsagePeriodNotFound, InvalidTransition, NothingToRate, RatingFailed, BilledByInvoice,
    InvoicePartlyPaid.
    """
    row = await _read(tx, tenant_id, period)
    apply_lifecycle(UsagePeriodStatus(row.status), action, now)
    match action:
        case UsagePeriodAction.RATE:
            await _rate(tx, row, now)
        case UsagePeriodAction.BILL:
            raise await _refusal(tx, row)
        case UsagePeriodAction.REOPEN:
            invoice = await _invoice_of(tx, row)
            assert invoice is not None, "a billed period has the invoice that billed it"
            await void_invoice(tx, tenant_id, invoice, VoidOrder(), cause, now=now)
    return await _read(tx, tenant_id, period)


async def _read(tx: Connection, tenant_id: UUID, period: tuple[UUID, datetime]) -> UsagePeriod:
    item_id, start = period
    found = await queries.invoice_explain.get_usage_period(
        tx, tenant_id=tenant_id, item_id=item_id, period_start=start
    )
    if found is None:
        raise UsagePeriodNotFound(
            metadata={
                "item": encode(Prefix.SUBSCRIPTION_ITEM, item_id),
                "period_start": start.isoformat(),
            }
        )
    return found.usage_period


async def _rate(tx: Connection, row: UsagePeriod, now: datetime) -> None:
    await retry_rating(tx, row.tenant_id, row.subscription_id)
    failure = await rate_now(tx, row.tenant_id, row.subscription_id, now=now)
    if failure is not None:
        raise RatingFailed(failure.message, metadata={"cause": failure.reason})
    rated = await _read(tx, row.tenant_id, (row.item_id, row.period_start))
    if rated.status == row.status:
        raise NothingToRate


async def _refusal(tx: Connection, row: UsagePeriod) -> BilledByInvoice:
    if row.bill_kind is None:
        return BilledByInvoice("The usage of a trial is not billed.", metadata={"invoice": ""})
    invoice = await _invoice_of(tx, row)
    named = encode(Prefix.INVOICE, invoice) if invoice else ""
    how = f"finalize {named}." if invoice else "it is made when the period has ended."
    return BilledByInvoice(
        f"A usage period is billed by the invoice of its boundary alone; {how}",
        metadata={"invoice": named},
    )


async def _invoice_of(tx: Connection, row: UsagePeriod) -> UUID | None:
    if row.bill_kind is None or row.bill_boundary is None:
        return None
    return await queries.rating.find_invoice_of_period(
        tx,
        tenant_id=row.tenant_id,
        subscription_id=row.subscription_id,
        kind=row.bill_kind,
        boundary=row.bill_boundary,
    )
