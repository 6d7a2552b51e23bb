"""Subscription path, steps 2 and 3, and invoice path, step 1: everything due for one subscription, in order.

Invariant: what is due by an instant is done before anything else happens at it, oldest first: starts, activations, ends
of periods, and scheduled changes, which come first at their instant.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from queries.models import Subscription

from billing.domain.errors import Conflict
from billing.domain.ids import Prefix, encode
from billing.domain.subscription import SubscriptionStatus
from billing.runtime.db import Connection
from billing.services.actor import Cause
from billing.services.cycles import activate, close_due
from billing.services.scheduled_changes import execute_next
from billing.services.subscription_hold import Moment, hold, read_again, read_instant
from billing.services.subscription_lifecycle import move_on
from billing.services.subscription_terms import Terms

# How many steps one call makes up for; the scheduler does the rest.
STEPS_MAX: Final = 64
RETRY_AFTER_S: Final = 1


class SubscriptionBehind(Conflict):
    """The subscription has periods to close that have long been over; try again when the scheduler has caught up."""

    reason = "SUBSCRIPTION_BEHIND"


async def hold_current(
    tx: Connection, tenant_id: UUID, subscription_id: UUID, cause: Cause, *, now: datetime
) -> tuple[Subscription, Moment]:
    """The subscription, locked and brought up to the present instant, and that instant.

    Raises SubscriptionNotFound, SubscriptionBehind.
    """
    row = await hold(tx, tenant_id, subscription_id)
    at = await read_instant(tx, row)
    moment = Moment(at, at, cause, now)
    return await catch_up(tx, row, moment), moment


async def catch_up(tx: Connection, row: Subscription, moment: Moment) -> Subscription:
    """Does what is due by `moment.at`, for callers that hold customer and subscription. Raises SubscriptionBehind."""
    for _ in range(STEPS_MAX):
        step = _next_step_at(row)
        change = row.change_due_at
        if change is not None and change <= moment.at and (step is None or change <= step):
            row = await execute_next(tx, row, moment)
        elif step is not None and step <= moment.at:
            row = await _step(tx, row, moment)
        else:
            return row
    raise SubscriptionBehind(
        metadata={"subscription": encode(Prefix.SUBSCRIPTION, row.id)}, retry_after_s=RETRY_AFTER_S
    )


def _next_step_at(row: Subscription) -> datetime | None:
    """When the subscription starts, is activated, or ends its period; None when it is over."""
    match SubscriptionStatus(row.status):
        case SubscriptionStatus.CREATED:
            return row.start_at
        case SubscriptionStatus.TRIALING:
            return row.trial_end_at
        case SubscriptionStatus.ACTIVE:
            return row.period_end or Terms.of(row).activation_at
        case SubscriptionStatus.CANCELED:
            return None


async def _step(tx: Connection, row: Subscription, moment: Moment) -> Subscription:
    today, causes = moment.times_of(row), {row.id: moment.cause}
    if row.status != SubscriptionStatus.ACTIVE:
        await move_on(tx, [row], today, causes, now=moment.now)
    elif row.period_start is None:
        await activate(tx, [row], today, causes, now=moment.now)
    else:
        await close_due(tx, [row], today, causes, now=moment.now)
    return await read_again(tx, row)
