"""Subscription path, steps 2 and 4: one step of the lifecycle, asked for by name.

Invariant: the table of transitions decides; a start comes with its time and with nothing else, a trial may be ended
early.
"""

from __future__ import annotations

import queries.subscription_changes
import queries.subscriptions
from queries.models import Subscription

from billing.domain.errors import InvalidTransition
from billing.domain.invoice import InvoiceKind
from billing.domain.subscription import SubscriptionAction, SubscriptionStatus, apply_lifecycle
from billing.runtime.db import Connection
from billing.services.scheduled_changes import finish_pending
from billing.services.subscription_cancel import cancel_at
from billing.services.subscription_catch_up import catch_up
from billing.services.subscription_hold import Moment, hold, read_again, read_instant
from billing.services.subscription_requests import Request
from billing.services.subscription_terms import RESOLUTION, Terms
from billing.services.subscriptions import SubscriptionView, get_subscription
from billing.services.usage_coverage import end_usage, hold_usage, rekey_trial
from billing.services.usage_periods import make_usage_periods
from billing.services.usage_reassign import reassign_usage


async def move_subscription(
    tx: Connection, request: Request, action: SubscriptionAction
) -> SubscriptionView:
    """Takes one step now; emits subscription.status.changed.

    Activating a trialing subscription ends its trial. Raises SubscriptionNotFound, InvalidTransition,
    SubscriptionBehind.
    """
    row = await hold(tx, request.tenant_id, request.subscription_id)
    wanted, _ = apply_lifecycle(SubscriptionStatus(row.status), action, request.now)
    at = await read_instant(tx, row)
    moment = Moment(at, at, request.cause, request.now)
    row = await catch_up(tx, row, moment)
    if row.status != wanted:
        await _move(tx, row, action, moment)
    return await get_subscription(tx, request.tenant_id, subscription_id=request.subscription_id)


async def _move(
    tx: Connection, row: Subscription, action: SubscriptionAction, moment: Moment
) -> None:
    match action, SubscriptionStatus(row.status):
        case SubscriptionAction.CANCEL, _:
            await cancel_at(tx, row, moment, credit=True)
            await finish_pending(tx, row, None, moment)
        case SubscriptionAction.ACTIVATE, SubscriptionStatus.TRIALING:
            await _end_trial(tx, row, moment)
        case _:
            raise InvalidTransition(
                f"A subscription that is {row.status} cannot {action} before its start,"
                f" {row.start_at.isoformat()}.",
                metadata={
                    "resource_kind": "subscription",
                    "status": row.status,
                    "action": str(action),
                },
            )


async def _end_trial(tx: Connection, row: Subscription, moment: Moment) -> None:
    """The trial ends now: what follows it is planned anew, and what was to happen at its end does not."""
    await finish_pending(tx, row, None, moment)
    end = max(moment.at, row.start_at + RESOLUTION)
    await hold_usage(tx, row, end)
    items = await queries.subscriptions.list_subscription_items(
        tx, tenant_id=row.tenant_id, subscription_id=row.id
    )
    metered = {item.id: item.meter_id for item in items if item.meter_id}
    await end_usage(tx, row, metered, end)
    await rekey_trial(tx, row, InvoiceKind.ACTIVATION, end)
    changed = await queries.subscription_changes.end_trial(
        tx, tenant_id=row.tenant_id, id=row.id, trial_end_at=end
    )
    assert changed is not None, "the row is held"
    await make_usage_periods(tx, [(changed, Terms.of(changed).first_ones())])
    await reassign_usage(
        tx,
        row,
        item_ids=list(metered),
        meter_ids=list(metered.values()),
        at=end,
        moment=moment,
    )
    await catch_up(
        tx, await read_again(tx, changed), Moment(end, moment.today, moment.cause, moment.now)
    )
