"""Invoice path, before step 1, for looking ahead: the next invoice of a subscription, before its cycle has closed.

Invariant: it is computed by the functions that finalize, from what is recorded now; nothing is written. If nothing is
recorded or changed until the boundary, the invoice there says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import queries.fee_periods
import queries.subscription_changes
from queries.models import FeePeriod, Invoice, Subscription

from billing.domain.invoice import InvoiceKind, InvoiceStatus
from billing.domain.period import Period
from billing.domain.pricing import BillingTiming
from billing.domain.subscription import SubscriptionStatus
from billing.runtime.db import Connection
from billing.services.business_time import business_time
from billing.services.fee_periods import FeeReason
from billing.services.invoice_drafts import GRACE_DEFAULT
from billing.services.invoice_preview import preview_draft
from billing.services.invoices import InvoiceView
from billing.services.subscription_terms import Terms
from billing.services.subscriptions import get_subscription

# The id of an invoice that does not exist yet.
NO_ID: Final = UUID(int=0)


class Moment(StrEnum):
    """Up to when: the next boundary with the fees that begin there, or what has come about so far without them."""

    NEXT_BOUNDARY = "next_boundary"
    NOW = "now"


async def preview_subscription(
    tx: Connection, tenant_id: UUID, subscription_id: UUID, moment: Moment, *, now: datetime
) -> InvoiceView:
    """The invoice that the subscription gets next, without an id. `tx` reads one snapshot; `now` is machine time.

    Of one that is not active yet it is the activation's, even without a line, of a canceled one what usage has come
    late. Nothing begins for one that is to end by then. Raises SubscriptionNotFound, RatingFailed.
    """
    row = (await get_subscription(tx, tenant_id, subscription_id=subscription_id)).row
    today = await business_time(tx, tenant_id, now)
    kind, boundary = _key(row, today)
    begins = _begins(row) if moment is Moment.NEXT_BOUNDARY else None
    if begins is not None and await _ends_by(tx, row, begins.start):
        begins = None
    to_come = await _fees(tx, row, begins, kind, boundary) if begins is not None else []
    draft = _draft(row, kind, boundary, today)
    return await preview_draft(tx, draft, None, now=now, to_come=to_come)


def _key(row: Subscription, today: datetime) -> tuple[InvoiceKind, datetime]:
    """What the next invoice is made for."""
    if row.status == SubscriptionStatus.CANCELED:
        return InvoiceKind.ADJUSTMENT, today
    if row.period_end is not None:
        return InvoiceKind.PERIOD, row.period_end
    return InvoiceKind.ACTIVATION, Terms.of(row).activation_at


def _begins(row: Subscription) -> Period | None:
    """The billing period whose fees in advance the invoice will have."""
    if row.status == SubscriptionStatus.CANCELED:
        return None
    terms = Terms.of(row)
    return terms.first_period() if row.period_end is None else terms.paid_from(row.period_end)


async def _ends_by(tx: Connection, row: Subscription, boundary: datetime) -> bool:
    """Whether its end is scheduled for the boundary, or before."""
    end = await queries.subscription_changes.get_scheduled_end(
        tx, tenant_id=row.tenant_id, subscription_id=row.id
    )
    return end is not None and end <= boundary


async def _fees(
    tx: Connection, row: Subscription, period: Period, kind: InvoiceKind, boundary: datetime
) -> Sequence[FeePeriod]:
    """The fee periods that beginning the period would write."""
    nominal = Terms.of(row).schedule.containing(period.start)
    items = await queries.fee_periods.list_fees_to_come(
        tx, tenant_id=row.tenant_id, subscription_id=row.id
    )
    return [
        FeePeriod(
            tenant_id=row.tenant_id,
            id=0,
            subscription_id=row.id,
            item_id=item.item_id,
            price_id=item.price_id,
            quantity=item.quantity,
            reason=FeeReason.PERIOD,
            billing_timing=BillingTiming.IN_ADVANCE,
            period_start=period.start,
            period_end=period.end,
            nominal_start=nominal.start,
            nominal_end=nominal.end,
            bill_kind=kind,
            bill_boundary=boundary,
            ended_at=None,
            gives_back=None,
        )
        for item in items
    ]


def _draft(row: Subscription, kind: InvoiceKind, boundary: datetime, today: datetime) -> Invoice:
    """The draft that its closing would make."""
    closed_at = max(boundary, today)
    return Invoice(
        tenant_id=row.tenant_id,
        id=NO_ID,
        customer_id=row.customer_id,
        subscription_id=row.id,
        kind=kind,
        boundary=boundary,
        status=InvoiceStatus.DRAFT,
        waived=False,
        currency=row.currency,
        number=None,
        subtotal=0,
        total=0,
        amount_due=0,
        closed_at=closed_at,
        finalize_at=closed_at + GRACE_DEFAULT,
        finalized_at=None,
        due_at=None,
        due_told_at=None,
        blocked_reason=None,
        retry_at=None,
        correlation_id=NO_ID,
        causation_id=None,
        version=0,
        created_at=closed_at,
        replaces=None,
        voided_at=None,
        void_reason="",
        discount=0,
        tax=0,
        credit_applied=0,
        to_credit_balance=0,
        amount_paid=0,
        amount_credited=0,
        memo="",
        parties=None,
    )
