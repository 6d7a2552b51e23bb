"""Subscription path, step 4: a subscription ends.

Invariant: the caller holds customer and subscription and has closed every cycle due before the end. Nothing is covered
from the end on; what was used before it is billed by the final invoice, and what was charged in advance for the time
after it is given back there, when an invoice charges it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.catalog
import queries.subscription_changes
import queries.subscriptions
from queries.models import Subscription
from tollway.subscription.v1 import subscription_events_pb2 as payloads

from billing.domain.ids import Prefix, encode
from billing.domain.invoice import InvoiceKind
from billing.domain.period import Period
from billing.domain.proration import Granularity, cancel_cut
from billing.domain.subscription import (
    MACHINE,
    SubscriptionAction,
    SubscriptionStatus,
    apply_lifecycle,
)
from billing.domain.usage import BACKDATING_LIMIT
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Link
from billing.services.cycles import Closed, close_apart
from billing.services.fee_changes import BillKey, end_fees, list_live, rekey_fees
from billing.services.subscription_hold import Moment, free_instant, is_inside, read_again
from billing.services.subscription_lifecycle import wire_status
from billing.services.unreported_usage import Begun, mark_cut_usage
from billing.services.usage_coverage import end_usage, hold_usage, rekey_trial, rekey_usage
from billing.services.usage_reassign import reassign_usage

# How long after its end late usage of a subscription is waited for, until it is billed by an adjustment.
LATE_USAGE: Final = BACKDATING_LIMIT
_CANCELABLE: Final = [str(status) for status in MACHINE.sources(SubscriptionAction.CANCEL)]


async def cancel_at(
    tx: Connection, row: Subscription, moment: Moment, *, credit: bool
) -> Subscription:
    """Ends the subscription at `moment.at`; emits subscription.status.changed and the final billing.cycle.closed.

    `credit` gives unused advance fees back. One that was never active has a final invoice only for a trial that its
    prices bill. Raises InvalidTransition.
    """
    status, _ = apply_lifecycle(
        SubscriptionStatus(row.status), SubscriptionAction.CANCEL, moment.at
    )
    if is_inside(row, moment.at):
        moment = replace(moment, at=await free_instant(tx, row, moment.at))
    await hold_usage(tx, row, moment.at)
    items = await queries.subscriptions.list_subscription_items(
        tx, tenant_id=row.tenant_id, subscription_id=row.id
    )
    metered = {item.id: item.meter_id for item in items if item.meter_id}
    await end_usage(tx, row, metered, moment.at)
    owes = None
    if row.period_start is not None:
        owes = await _settle(tx, row, moment, credit=credit)
        is_billed = True
    else:
        is_billed = await rekey_trial(tx, row, InvoiceKind.FINAL, moment.at)
    ended = await queries.subscription_changes.end_subscription(
        tx,
        tenant_id=row.tenant_id,
        id=row.id,
        canceled_at=moment.at,
        next_due_at=moment.at + LATE_USAGE if is_billed else None,
        from_statuses=_CANCELABLE,
    )
    assert ended is not None, "the row is held and was looked at"
    await _tell(tx, row, status, ended.version, moment)
    if is_billed:
        whole = None
        if row.period_start is not None and moment.at > row.period_start:
            whole = Period(row.period_start, moment.at)
        closed = Closed(row, new_id(moment.now), InvoiceKind.FINAL, moment.at, whole, owes)
        await close_apart(tx, closed, moment.times_of(row), moment.cause, now=moment.now)
    await reassign_usage(
        tx,
        row,
        item_ids=list(metered),
        meter_ids=list(metered.values()),
        at=moment.at,
        moment=moment,
    )
    return await read_again(tx, row)


async def _settle(
    tx: Connection, row: Subscription, moment: Moment, *, credit: bool
) -> UUID | None:
    """What the current period's invoice was to bill goes to the final one, with credits for the time after the end.

    Returns the plan whose commitment the period owes, if any.
    """
    assert row.period_end is not None, "a period has an end"
    key = BillKey(InvoiceKind.FINAL, moment.at)
    cut = await _cut(tx, row, moment.at)
    live = await list_live(tx, row, cut)
    credited = {one.fee_period.id for one in live if credit and one.is_charged}
    await end_fees(tx, row, live, cut, credited=credited, key=key)
    await rekey_fees(tx, row, key)
    await rekey_usage(tx, row, key.kind, key.boundary)
    deleted = await queries.subscription_changes.delete_open_cycle(
        tx, tenant_id=row.tenant_id, subscription_id=row.id, boundary=row.period_end
    )
    return deleted.plan_id if deleted else None


async def _cut(tx: Connection, row: Subscription, at: datetime) -> datetime:
    """From when on nothing is charged: by day, from the midnight after; at a period's end, from there."""
    plan = await queries.catalog.get_plan(tx, tenant_id=row.tenant_id, id=row.plan_id)
    assert plan is not None, "a subscription has a plan"
    assert row.period_end is not None, "it is in a period"
    return min(cancel_cut(at, Granularity(plan.granularity), row.time_zone), row.period_end)


async def _tell(
    tx: Connection, row: Subscription, status: SubscriptionStatus, version: int, moment: Moment
) -> None:
    resource = encode(Prefix.SUBSCRIPTION, row.id)
    payload = payloads.SubscriptionStatusChanged(
        subscription_id=resource,
        old_status=wire_status(row.status),
        new_status=wire_status(status),
    )
    payload.effective_time.FromDatetime(moment.at)
    event = events.NewEvent(row.tenant_id, resource, version, payload, moment.today, moment.cause)
    (event_id,) = await events.emit(tx, [event], now=moment.now)
    await mark_cut_usage(tx, Begun(row, moment.at, Link(event_id, moment.cause.correlation_id)))
