"""Subscription path, step 3: a subscription gets other items, prices, quantities, another plan or interval.

Invariant: the caller holds customer and subscription, has read the instant behind the locks and has closed every cycle
due by it. What was charged in advance for the time after the cut is given back, and what comes instead is charged. A
change of interval ends the period there, and its invoice bills what the period's would have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from uuid import UUID

import queries.subscription_changes
import queries.subscriptions
from queries.fee_periods import ListLiveFeesRow
from queries.models import Subscription
from tollway.subscription.v1 import subscription_events_pb2 as payloads
from tollway.subscription.v1 import subscription_service_pb2 as pb

from billing.domain.decimals import decimal_text
from billing.domain.errors import Invalid
from billing.domain.ids import Prefix, encode
from billing.domain.invoice import InvoiceKind
from billing.domain.period import Interval, Period, calendar_anchor
from billing.domain.proration import Granularity, change_cut
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Link
from billing.services.cycles import Closed, Opened, close_apart, reopen
from billing.services.fee_changes import (
    BillKey,
    charges_from,
    creditable,
    end_fees,
    insert_fees,
    list_live,
    rekey_fees,
)
from billing.services.fee_periods import FeeReason
from billing.services.subscription_edits import Change, Edits, Proration, check
from billing.services.subscription_hold import (
    Moment,
    draw_version,
    free_instant,
    is_inside,
    read_again,
    refuse_canceled,
)
from billing.services.subscription_items import Edited, edit_items, follow_with_usage
from billing.services.subscription_terms import Alignment, Terms
from billing.services.unreported_usage import Begun, mark_cut_usage
from billing.services.usage_coverage import end_usage, hold_usage, rekey_usage
from billing.services.usage_periods import make_usage_periods
from billing.services.usage_reassign import reassign_usage


async def apply_change(
    tx: Connection, row: Subscription, change: Change, moment: Moment
) -> Subscription:
    """Does the change at `moment.at`; emits subscription.changed, and billing.cycle.closed when it charges at once.

    At the very end of a period, before it is closed, nothing is prorated: the next period begins with what the change
    leaves. Raises SubscriptionCanceled and what `check` raises.
    """
    refuse_canceled(row)
    asked = await check(tx, row, change)
    moves = asked.plan.billing_interval != row.billing_interval or change.anchor_at is not None
    if not asked.edits and not moves and asked.plan.id == row.plan_id:
        return row
    inside = is_inside(row, moment.at)
    if moves and inside and change.proration is not Proration.AT_ONCE:
        raise Invalid.field(
            "proration", "a change of interval within a period is charged at once; or schedule it."
        )
    if inside:
        moment = replace(moment, at=await free_instant(tx, row, moment.at))
    held = await hold_usage(tx, row, moment.at)
    edited = await edit_items(tx, row, asked.edits, moment)
    if moves and inside:
        await _change_interval(tx, row, asked, change, moment)
    else:
        if inside and change.proration is not Proration.NONE:
            await _prorate(tx, row, asked, edited, change.proration, moment)
            await _owe_new_plan(tx, row, asked, moment)
        await follow_with_usage(tx, row, edited, held, moment)
        changed = await _change_terms(tx, row, asked, change, None)
        if moves:
            await _replan_usage(tx, row, changed, moment)
    return await _tell(tx, row, moment)


async def _prorate(
    tx: Connection,
    row: Subscription,
    asked: Edits,
    edited: Sequence[Edited],
    proration: Proration,
    moment: Moment,
) -> None:
    """Pairs of credit and debit for the rest of the current period, on the change's own invoice or on the next."""
    assert row.period_start is not None, "it is inside a period"
    assert row.period_end is not None, "it is inside a period"
    cut, reaching = await _reaching(tx, row, asked, moment.at)
    key = BillKey(InvoiceKind.CHANGE, moment.at)
    if proration is Proration.NEXT_INVOICE:
        key = BillKey(InvoiceKind.PERIOD, row.period_end)
    ended = {one.item.id for one in edited}
    live = [fee for fee in reaching if fee.fee_period.item_id in ended]
    given_back = await end_fees(tx, row, live, cut, credited=creditable(live), key=key)
    nominal = Terms.of(row).schedule.containing(row.period_start)
    begun = [one.licensed for one in edited if one.licensed]
    charges = list(charges_from(begun, Period(cut, row.period_end), nominal, key))
    await insert_fees(tx, row, charges)
    billed = given_back + sum(fee.key == key for fee in charges)
    if key.kind is InvoiceKind.CHANGE and billed:
        await _close_change(tx, row, moment)


async def _owe_new_plan(tx: Connection, row: Subscription, asked: Edits, moment: Moment) -> None:
    """From the cut on the current period owes what the new plan promises; before it, what it owed."""
    if asked.plan.id == row.plan_id:
        return
    assert row.period_start is not None, "it is inside a period"
    assert row.period_end is not None, "it is inside a period"
    cut = max(_cut(row, asked, moment.at), row.period_start)
    await queries.subscription_changes.delete_plan_stretches(
        tx, tenant_id=row.tenant_id, subscription_id=row.id, starts_at=cut
    )
    await queries.subscription_changes.insert_plan_stretches(
        tx,
        tenant_id=row.tenant_id,
        subscription_id=row.id,
        boundary=row.period_end,
        starts_at=cut,
        plan_id=asked.plan.id,
    )


async def _close_change(tx: Connection, row: Subscription, moment: Moment) -> None:
    """The change's cycle, once: another change at the same instant joins its draft."""
    found = await queries.subscription_changes.has_cycle(
        tx,
        tenant_id=row.tenant_id,
        subscription_id=row.id,
        kind=InvoiceKind.CHANGE,
        boundary=moment.at,
    )
    if not found:
        closed = Closed(row, new_id(moment.now), InvoiceKind.CHANGE, moment.at, None)
        await close_apart(tx, closed, moment.times_of(row), moment.cause, now=moment.now)


async def _change_interval(
    tx: Connection, row: Subscription, asked: Edits, change: Change, moment: Moment
) -> None:
    """Ends the current period at the change and enters one of the new schedule."""
    assert row.period_start is not None, "it is inside a period"
    assert row.period_end is not None, "it is inside a period"
    cut, live = await _reaching(tx, row, asked, moment.at)
    key = BillKey(InvoiceKind.CHANGE, moment.at)
    await end_fees(tx, row, live, cut, credited=creditable(live), key=key)
    await rekey_fees(tx, row, key)
    metered = await _metered_of(tx, row)
    await end_usage(tx, row, metered, moment.at)
    await rekey_usage(tx, row, key.kind, key.boundary)
    deleted = await queries.subscription_changes.delete_open_cycle(
        tx, tenant_id=row.tenant_id, subscription_id=row.id, boundary=row.period_end
    )
    # An earlier change at this instant was of the period that ends.
    await queries.subscription_changes.delete_plan_stretches(
        tx, tenant_id=row.tenant_id, subscription_id=row.id, starts_at=moment.at
    )
    changed = await _change_terms(tx, row, asked, change, moment.at)
    terms = Terms.of(changed)
    opened = Opened(
        changed, terms, terms.paid_from(moment.at), InvoiceKind.CHANGE, FeeReason.DEBIT, cut
    )
    ended = Period(row.period_start, moment.at) if moment.at > row.period_start else None
    owes = deleted.plan_id if deleted else None
    closed = Closed(changed, new_id(moment.now), InvoiceKind.CHANGE, moment.at, ended, owes)
    await reopen(tx, opened, closed, moment.times_of(row), moment.cause, now=moment.now)
    await _reassign_all(tx, row, metered, moment.at, moment)


async def _replan_usage(
    tx: Connection, row: Subscription, changed: Subscription, moment: Moment
) -> None:
    """Usage periods that have not begun are made anew; closing the current period, if there is one, does the rest."""
    terms = Terms.of(changed)
    start = row.period_end or terms.billed_from
    metered = await _metered_of(tx, row)
    await end_usage(tx, row, metered, start)
    if row.period_start is None:
        await make_usage_periods(tx, [(changed, terms.first_ones())])
    await _reassign_all(tx, row, metered, start, moment)


async def _change_terms(
    tx: Connection, row: Subscription, asked: Edits, change: Change, at: datetime | None
) -> Subscription:
    """Stores plan, interval and anchor. From `at` on nothing is billed elsewhere any more."""
    interval = Interval(asked.plan.billing_interval)
    anchor = change.anchor_at or row.anchor_at
    if change.anchor_at is None and anchor and row.alignment == Alignment.CALENDAR:
        anchor = calendar_anchor(anchor, row.time_zone, interval)
    changed = await queries.subscription_changes.change_terms(
        tx,
        tenant_id=row.tenant_id,
        id=row.id,
        plan_id=asked.plan.id,
        billing_interval=interval,
        anchor_at=anchor,
        billed_until=min(at, row.billed_until) if at and row.billed_until else row.billed_until,
    )
    assert changed is not None, "the row is held"
    return changed


async def _metered_of(tx: Connection, row: Subscription) -> dict[UUID, UUID]:
    """The meters of the items that the subscription has now, by item."""
    items = await queries.subscriptions.list_subscription_items(
        tx, tenant_id=row.tenant_id, subscription_id=row.id
    )
    return {item.id: item.meter_id for item in items if item.meter_id}


async def _reassign_all(
    tx: Connection, row: Subscription, metered: Mapping[UUID, UUID], at: datetime, moment: Moment
) -> None:
    await reassign_usage(
        tx,
        row,
        item_ids=list(metered),
        meter_ids=list(metered.values()),
        at=at,
        moment=moment,
    )


async def _tell(tx: Connection, row: Subscription, moment: Moment) -> Subscription:
    items = await queries.subscriptions.list_subscription_items(
        tx, tenant_id=row.tenant_id, subscription_id=row.id
    )
    version = await draw_version(tx, row)
    changed = await read_again(tx, row)
    resource = encode(Prefix.SUBSCRIPTION, row.id)
    payload = payloads.SubscriptionChanged(
        subscription_id=resource,
        plan_id=encode(Prefix.PLAN, changed.plan_id),
        items=[
            pb.SubscriptionItem(
                id=encode(Prefix.SUBSCRIPTION_ITEM, item.id),
                price_id=encode(Prefix.PRICE, item.price_id),
                quantity=decimal_text(Fraction(item.quantity)),
            )
            for item in items
        ],
    )
    payload.effective_time.FromDatetime(moment.at)
    event = events.NewEvent(row.tenant_id, resource, version, payload, moment.today, moment.cause)
    (event_id,) = await events.emit(tx, [event], now=moment.now)
    await mark_cut_usage(tx, Begun(row, moment.at, Link(event_id, moment.cause.correlation_id)))
    return changed


async def _reaching(
    tx: Connection, row: Subscription, asked: Edits, at: datetime
) -> tuple[datetime, Sequence[ListLiveFeesRow]]:
    """From when on fees are given back and charged anew, and those of the period that reach beyond it.

    By day that is before the period's own start where the change that began it charged the day from its midnight on.
    """
    assert row.period_start is not None, "it is inside a period"
    cut = _cut(row, asked, at)
    live = await list_live(tx, row, max(cut, row.period_start))
    first = min([row.period_start, *(fee.fee_period.period_start for fee in live)])
    return max(cut, first), live


def _cut(row: Subscription, asked: Edits, at: datetime) -> datetime:
    return change_cut(at, Granularity(asked.plan.granularity), row.time_zone)
