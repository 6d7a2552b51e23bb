"""Subscription path, steps 1, 3 and 4: what a tenant asks for: subscribe, change, migrate, cancel, and take it back.

Invariant: what is asked for now happens at one instant, read behind the locks, after everything due by it; what is
asked for later is stored with its instant and checked against the subscription as it is now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import queries.subscription_changes
import queries.subscriptions
from queries.models import Plan, Price, ScheduledChange, Subscription

from billing.domain.errors import AlreadyExists, Invalid, Precondition
from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.services.actor import Cause
from billing.services.catalog import get_plan
from billing.services.scheduled_changes import (
    ChangeKind,
    finish_pending,
    get_scheduled_change,
    schedule_cancel,
    schedule_change,
    take_back,
)
from billing.services.subscription_cancel import cancel_at
from billing.services.subscription_catch_up import hold_current
from billing.services.subscription_change import apply_change
from billing.services.subscription_edits import Change, ItemChange, Proration, check
from billing.services.subscription_hold import Moment, hold, read_instant, refuse_canceled
from billing.services.subscription_terms import Terms
from billing.services.subscriptions import (
    NewSubscription,
    SubscriptionView,
    create_subscription,
    get_subscription,
)

AHEAD_MAX: Final = timedelta(days=730)
SUCCESSORS_MAX: Final = 100


class NotCanceling(Precondition):
    """The subscription is not going to be canceled, so there is nothing to take back."""

    reason = "CANCELLATION_NOT_SCHEDULED"


class NothingToMigrate(Precondition):
    """Every item has the newest price of the plan already."""

    reason = "NOTHING_TO_MIGRATE"


@dataclass(frozen=True, slots=True)
class Later:
    """When something is to happen: at the end of the current period (of a trial, its end), or at an instant."""

    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Ends:
    """When a new subscription is to end by itself: at the end of its trial, or at an instant."""

    with_trial: bool = False
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Migration:
    """Which newer prices to take: of another plan, or the successors of the present ones.

    `prices` names them by item where there is a choice.
    """

    plan_id: UUID | None = None
    plan_key: str = ""
    prices: Mapping[UUID, UUID] | None = None
    proration: Proration = Proration.AT_ONCE


@dataclass(frozen=True, slots=True)
class Asked:
    """The subscription as it is now, and what was put off."""

    view: SubscriptionView
    scheduled: ScheduledChange | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """Of which subscription something is asked, why, and whether it is put off. `now` is machine time."""

    tenant_id: UUID
    subscription_id: UUID
    cause: Cause
    now: datetime
    later: Later | None = None


async def subscribe(
    tx: Connection,
    tenant_id: UUID,
    draft: NewSubscription,
    ends: Ends,
    cause: Cause,
    *,
    now: datetime,
) -> SubscriptionView:
    """A new subscription, and its end where it has one. Raises what create_subscription does, and Invalid."""
    made = await create_subscription(tx, tenant_id, draft, cause, now=now)
    row = made.row
    if ends.with_trial and row.trial_end_at is None:
        raise Invalid.field("trial_end_behavior", "there is no trial; give trial_days.")
    if ends.at is not None and ends.at <= Terms.of(row).activation_at:
        raise Invalid.field("end_time", "must lie after the start and the trial.")
    end = row.trial_end_at if ends.with_trial else ends.at
    if end is None:
        return made
    moment = Moment(row.created_at, row.created_at, cause, now)
    await schedule_cancel(tx, row, end, moment, credit=True)
    return await get_subscription(tx, tenant_id, subscription_id=row.id)


async def change_subscription(tx: Connection, request: Request, change: Change) -> Asked:
    """Changes items, quantities, prices, plan or interval now, or stores that for later.

    Raises SubscriptionNotFound, SubscriptionCanceled, SubscriptionBehind, TooManyScheduledChanges, and what `check`
    raises.
    """
    row, moment = await _hold(tx, request)
    return await _change(tx, row, change, request.later, moment)


async def migrate_subscription(tx: Connection, request: Request, migration: Migration) -> Asked:
    """Gives the items newer prices. Raises NothingToMigrate and what change_subscription raises."""
    row, moment = await _hold(tx, request)
    refuse_canceled(row)
    return await _change(tx, row, await _migrated(tx, row, migration), request.later, moment)


async def cancel_subscription(tx: Connection, request: Request, *, credit: bool) -> Asked:
    """Ends the subscription now, or stores that for later, in place of an end that was stored before.

    Raises SubscriptionNotFound, SubscriptionCanceled, SubscriptionBehind, Invalid.
    """
    row, moment = await _hold(tx, request)
    refuse_canceled(row)
    if request.later is not None:
        due_at = _due_at(row, request.later, moment.at)
        scheduled = await schedule_cancel(tx, row, due_at, moment, credit=credit)
        return await _asked(tx, row, scheduled)
    await cancel_at(tx, row, moment, credit=credit)
    await finish_pending(tx, row, None, moment)
    return await _asked(tx, row)


async def uncancel_subscription(tx: Connection, request: Request) -> Asked:
    """Takes a scheduled end back. Raises SubscriptionNotFound, SubscriptionCanceled, NotCanceling."""
    row, moment = await _hold(tx, request)
    refuse_canceled(row)
    if not await finish_pending(tx, row, ChangeKind.CANCEL, moment):
        raise NotCanceling(metadata={"subscription": encode(Prefix.SUBSCRIPTION, row.id)})
    return await _asked(tx, row)


async def rename_subscription(
    tx: Connection, tenant_id: UUID, subscription_id: UUID, external_id: str
) -> SubscriptionView:
    """Gives the subscription another external id, none if it is empty. Raises SubscriptionNotFound, AlreadyExists."""
    row = await hold(tx, tenant_id, subscription_id)
    renamed = await queries.subscriptions.set_external_id(
        tx, tenant_id=tenant_id, id=row.id, external_id=external_id or None
    )
    if renamed is None:
        raise AlreadyExists(
            f"A subscription with the external id {external_id!r} exists.",
            metadata={"kind": "subscription", "key": external_id},
        )
    return await get_subscription(tx, tenant_id, subscription_id=row.id)


async def cancel_scheduled_change(
    tx: Connection, tenant_id: UUID, change_id: UUID, cause: Cause, *, now: datetime
) -> ScheduledChange:
    """Takes a scheduled change back. Raises ScheduledChangeNotFound, ScheduledChangeFinished."""
    change = await get_scheduled_change(tx, tenant_id, change_id)
    row = await hold(tx, tenant_id, change.subscription_id)
    at = await read_instant(tx, row)
    return await take_back(tx, row, change, Moment(at, at, cause, now))


async def list_scheduled_changes(
    tx: Connection,
    tenant_id: UUID,
    subscription_id: UUID,
    *,
    pending_only: bool,
    before: UUID | None,
    limit: int,
) -> Sequence[ScheduledChange]:
    """At most `limit` of a subscription's changes, newest first, those made before `before`.

    Raises SubscriptionNotFound.
    """
    await get_subscription(tx, tenant_id, subscription_id=subscription_id)
    return await queries.subscription_changes.list_scheduled_changes(
        tx,
        tenant_id=tenant_id,
        subscription_id=subscription_id,
        pending_only=pending_only,
        before=before,
        page_max=limit,
    )


async def _hold(tx: Connection, request: Request) -> tuple[Subscription, Moment]:
    return await hold_current(
        tx, request.tenant_id, request.subscription_id, request.cause, now=request.now
    )


async def _change(
    tx: Connection, row: Subscription, change: Change, later: Later | None, moment: Moment
) -> Asked:
    refuse_canceled(row)
    if later is None:
        await apply_change(tx, row, change, moment)
        return await _asked(tx, row)
    await check(tx, row, change)
    due_at = _due_at(row, later, moment.at)
    return await _asked(tx, row, await schedule_change(tx, row, change, due_at, moment))


async def _migrated(tx: Connection, row: Subscription, migration: Migration) -> Change:
    """The change that gives every item its newer price."""
    plan_id = migration.plan_id
    if plan_id is None and not migration.plan_key:
        plan_id = row.plan_id
    plan, prices = await get_plan(tx, row.tenant_id, plan_id=plan_id, key=migration.plan_key)
    view = await get_subscription(tx, row.tenant_id, subscription_id=row.id)
    old = await queries.subscription_changes.list_prices_by_ids(
        tx, tenant_id=row.tenant_id, ids=[item.price_id for item in view.items]
    )
    by_id = {price.id: price for price in [*old, *prices]}
    named = dict(migration.prices or {})
    items = []
    for item in view.items:
        price_id = named.pop(item.id, None) or _successor(by_id[item.price_id], plan, prices)
        if price_id != item.price_id:
            items.append(ItemChange(item.id, price_id))
    if named:
        unknown = encode(Prefix.SUBSCRIPTION_ITEM, next(iter(named)))
        raise Invalid.field("prices", f"{unknown} is no item of the subscription.")
    if not items and plan.id == row.plan_id:
        raise NothingToMigrate(metadata={"plan": encode(Prefix.PLAN, plan.id)})
    return Change(items, plan.id, proration=migration.proration)


def _successor(old: Price, plan: Plan, prices: Sequence[Price]) -> UUID:
    """The newest price that stands for the old one in the plan: for the same meter, or of the same name."""
    known = {price.id: price for price in prices}
    newest = old
    for _ in range(SUCCESSORS_MAX):
        if newest.superseded_by is None or newest.superseded_by not in known:
            break
        newest = known[newest.superseded_by]
    if plan.id == old.plan_id:
        return newest.id
    fitting = [
        price
        for price in prices
        if price.archived_at is None
        and price.meter_id == old.meter_id
        and (old.meter_id or price.display_name == old.display_name)
    ]
    if len(fitting) != 1:
        raise Invalid.field(
            "prices",
            f"the plan {plan.key!r} has {len(fitting)} prices for what {old.display_name!r} bills;"
            " name the one to take.",
        )
    return fitting[0].id


def _due_at(row: Subscription, later: Later, now: datetime) -> datetime:
    """The instant of what is put off. Raises Invalid."""
    if later.at is None:
        return row.period_end or Terms.of(row).activation_at
    if not now < later.at <= now + AHEAD_MAX:
        raise Invalid.field(
            "at_time",
            f"must lie in the future, at most {AHEAD_MAX.days} days; leave it out for now.",
        )
    return later.at


async def _asked(
    tx: Connection, row: Subscription, scheduled: ScheduledChange | None = None
) -> Asked:
    view = await get_subscription(tx, row.tenant_id, subscription_id=row.id)
    return Asked(view, scheduled)
