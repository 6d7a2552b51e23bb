"""Subscription path, step 3: the locks and the instant of whatever changes a subscription.

Invariant: customer, then subscription, are locked before the instant is read, once; so nothing that another transaction
did to them lies behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import queries.subscription_changes
import queries.subscriptions
from queries.models import Subscription

from billing.domain.errors import Precondition
from billing.domain.ids import Prefix, encode
from billing.domain.invoice import InvoiceKind
from billing.domain.subscription import SubscriptionStatus
from billing.runtime.db import Connection
from billing.services.actor import Cause
from billing.services.subscription_terms import RESOLUTION
from billing.services.subscriptions import SubscriptionNotFound


class SubscriptionCanceled(Precondition):
    """The subscription is canceled, and nothing about it changes any more."""

    reason = "SUBSCRIPTION_CANCELED"


@dataclass(frozen=True, slots=True)
class Moment:
    """When something happens to a subscription, in business time: `at` is the instant that counts, `today` is now.

    They differ for what was scheduled and is done late. `now` is machine time.
    """

    at: datetime
    today: datetime
    cause: Cause
    now: datetime

    def times_of(self, row: Subscription) -> dict[UUID, datetime]:
        """The business time by tenant, as the cycles want it."""
        return {row.tenant_id: self.today}


async def hold(tx: Connection, tenant_id: UUID, subscription_id: UUID) -> Subscription:
    """The subscription, locked behind its customer. Raises SubscriptionNotFound."""
    found = await queries.subscriptions.get_subscription(
        tx, tenant_id=tenant_id, id=subscription_id
    )
    if found is None:
        raise SubscriptionNotFound(
            metadata={"subscription": encode(Prefix.SUBSCRIPTION, subscription_id)}
        )
    await queries.subscriptions.lock_customer(tx, tenant_id=tenant_id, id=found.customer_id)
    rows = await queries.subscriptions.lock_subscriptions(
        tx, tenant_ids=[tenant_id], ids=[subscription_id]
    )
    return rows[0]


async def read_instant(tx: Connection, row: Subscription) -> datetime:
    """The business time now, for callers that hold the subscription; never before its current period."""
    at = await queries.subscription_changes.read_business_time(tx, tenant_id=row.tenant_id)
    assert at is not None, "a clock always says a time"
    # The clock of the process that opened the period may go a little ahead of the database's.
    return max(at, row.period_start or at)


def is_inside(row: Subscription, at: datetime) -> bool:
    """Whether the instant lies in a billing period, not at the very end of one."""
    return row.period_start is not None and row.period_end is not None and at < row.period_end


async def free_instant(
    tx: Connection, row: Subscription, at: datetime, kind: InvoiceKind = InvoiceKind.CHANGE
) -> datetime:
    """The instant itself while its invoice of that kind takes lines, or the next free microsecond.

    A test clock stands still; and what comes later never begins before what came earlier.
    """
    while await queries.subscription_changes.has_final_invoice(
        tx,
        tenant_id=row.tenant_id,
        subscription_id=row.id,
        kind=kind,
        boundary=at,
    ):
        at += RESOLUTION
    return at


def refuse_canceled(row: Subscription) -> None:
    """Raises SubscriptionCanceled for one that is over."""
    if row.status == SubscriptionStatus.CANCELED:
        raise SubscriptionCanceled(metadata={"subscription": encode(Prefix.SUBSCRIPTION, row.id)})


async def draw_version(tx: Connection, row: Subscription) -> int:
    """The subscription's next version, for an event."""
    drawn = await queries.subscriptions.advance_versions(
        tx, tenant_ids=[row.tenant_id], ids=[row.id], events=[1]
    )
    return drawn[0].version


async def read_again(tx: Connection, row: Subscription) -> Subscription:
    """The row as this transaction has left it."""
    again = await queries.subscriptions.get_subscription(tx, tenant_id=row.tenant_id, id=row.id)
    assert again is not None, "the row is held"
    return again
