"""Invoice path, step 1: billing cycles are opened at the activation, and closed when their boundary has come.

Invariant: a period is opened and closed once, under the subscription's row lock; closing it, its event, the next
cycle, the next usage periods and the next due time are one transaction. The due time is stored and never asked of a
calendar, so an outage skips nothing: catching up goes period by period.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import queries.cycles
import queries.subscriptions
from queries.models import Subscription
from tollway.scheduler.v1 import scheduler_events_pb2 as payloads
from tollway.subscription.v1 import subscription_events_pb2, subscription_service_pb2

from billing.domain.ids import Prefix, encode
from billing.domain.invoice import InvoiceKind
from billing.domain.period import Period
from billing.domain.subscription import SubscriptionStatus
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause, Link
from billing.services.business_time import business_times
from billing.services.fee_periods import IMPORTED, FeeReason, FeesOf, make_fee_periods
from billing.services.incoming import Incoming
from billing.services.subscription_lifecycle import ROUTER, lock_subscriptions
from billing.services.subscription_terms import Stretch, Terms
from billing.services.unreported_usage import Begun, mark_standing_levels
from billing.services.usage_periods import make_usage_periods

_ACTIVE = subscription_service_pb2.SUBSCRIPTION_STATUS_ACTIVE
_STATUS_CHANGED = events.subject_of(subscription_events_pb2.SubscriptionStatusChanged)


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed cycle; `ended` is the period that it bills, None for an activation and a change within a period.

    `plan_id` is the plan whose commitment that period owes, if any.
    """

    row: Subscription
    cycle_id: UUID
    kind: InvoiceKind
    boundary: datetime
    ended: Period | None
    plan_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class _Cycle:
    """A cycle to insert; an open one has no closed_at, an activation no period."""

    row: Subscription
    kind: InvoiceKind
    boundary: datetime
    id: UUID
    period_start: datetime | None
    plan_id: UUID | None
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Opened:
    """The billing period that a subscription enters; `start_kind` is the invoice at its start, if it is ours.

    `fees_from` is from when its fees are charged, where a change by day cuts at another instant than the period's.
    """

    row: Subscription
    terms: Terms
    period: Period
    start_kind: InvoiceKind | None
    reason: FeeReason = FeeReason.PERIOD
    fees_from: datetime | None = None

    @property
    def fees(self) -> FeesOf:
        """What it charges for licensed items."""
        nominal = self.terms.schedule.containing(self.period.start)
        kind = IMPORTED if self.start_kind is None else str(self.start_kind)
        charged = Period(self.fees_from or self.period.start, self.period.end)
        return FeesOf(self.row, charged, nominal, kind, self.period.start, self.reason)

    @property
    def plan_id(self) -> UUID | None:
        """The plan whose commitment it owes; none where another system bills it."""
        return self.row.plan_id if self.period.start >= self.terms.billed_from else None

    @property
    def ahead(self) -> Sequence[Stretch]:
        """The usage periods that exist from now on: its own and the next."""
        return self.terms.two_from(max(self.period.start, self.terms.billed_from))


async def follow_subscription(
    tx: Connection, incoming: Sequence[Incoming], now: datetime
) -> Collection[UUID]:
    """Consumer `scheduler`, of subscription.created and subscription.status.changed: opens the first period.

    A creation and a trial's start open nothing: their usage periods were made with the subscription. They are taken in
    all the same, so that the events of a subscription come in order.
    """
    activated = [event for event in incoming if _activates(event)]
    causes = {event.resource: event.cause(ROUTER) for event in activated}
    rows = await lock_subscriptions(tx, activated)
    waiting = [
        row for row in rows if row.status == SubscriptionStatus.ACTIVE and row.period_start is None
    ]
    if waiting:
        today = await business_times(tx, {row.tenant_id for row in waiting}, now)
        by_id = {row.id: causes[encode(Prefix.SUBSCRIPTION, row.id)] for row in waiting}
        await activate(tx, waiting, today, by_id, now=now)
    return ()


async def close_due(
    tx: Connection,
    rows: Sequence[Subscription],
    today: Mapping[UUID, datetime],
    causes: Mapping[UUID, Cause],
    *,
    now: datetime,
) -> None:
    """Closes the current period of each subscription and opens the next, for callers that hold the rows' locks.

    The rows are active and their period_end has come by `today`, the business time by tenant.
    """
    ending = [(row, row.period_end) for row in rows if row.period_end is not None]
    if not ending:
        return
    closed_rows = await queries.cycles.close_cycles(
        tx,
        tenant_ids=[row.tenant_id for row, _ in ending],
        subscription_ids=[row.id for row, _ in ending],
        boundaries=[end for _, end in ending],
        closed_ats=[today[row.tenant_id] for row, _ in ending],
    )
    by_id = {row.id: row for row, _ in ending}
    closed = [
        Closed(
            by_id[cycle.subscription_id],
            cycle.id,
            InvoiceKind.PERIOD,
            cycle.boundary,
            Period(cycle.period_start, cycle.boundary) if cycle.period_start else None,
        )
        for cycle in closed_rows
    ]
    opened = [
        Opened(row, terms, terms.paid_from(end), InvoiceKind.PERIOD)
        for row, end in ending
        for terms in [Terms.of(row)]
    ]
    await _insert_cycles(tx, opened, [], today, now)
    await _enter(tx, opened, closed, today, causes, now)


async def reopen(
    tx: Connection,
    opened: Opened,
    closed: Closed,
    today: Mapping[UUID, datetime],
    cause: Cause,
    *,
    now: datetime,
) -> None:
    """Ends the current period early with the cycle `closed` and enters another, under the subscription's lock."""
    await _insert_cycles(tx, [opened], [closed], today, now)
    await _enter(tx, [opened], [closed], today, {opened.row.id: cause}, now)


async def close_apart(
    tx: Connection, closed: Closed, today: Mapping[UUID, datetime], cause: Cause, *, now: datetime
) -> None:
    """Makes a cycle that is closed at once beside the current period, or as the last one, and tells it."""
    await _insert_cycles(tx, [], [closed], today, now)
    row = closed.row
    drawn = await queries.subscriptions.advance_versions(
        tx, tenant_ids=[row.tenant_id], ids=[row.id], events=[1]
    )
    event = _closed_event(closed, drawn[0].version, today[row.tenant_id], _linked(row, cause))
    await events.emit(tx, [event], now=now)


async def activate(
    tx: Connection,
    rows: Sequence[Subscription],
    today: Mapping[UUID, datetime],
    causes: Mapping[UUID, Cause],
    *,
    now: datetime,
) -> None:
    """The activation's cycle, closed as it is made, and the first period's, open; for callers that hold the locks.

    An imported subscription has no activation's invoice: another system has made it.
    """
    opened = []
    for row in rows:
        terms = Terms.of(row)
        kind = InvoiceKind.ACTIVATION if terms.billed_from == terms.activation_at else None
        opened.append(Opened(row, terms, terms.first_period(), kind))
    closed = [
        Closed(one.row, new_id(now), InvoiceKind.ACTIVATION, one.period.start, None)
        for one in opened
        if one.start_kind is not None
    ]
    await _insert_cycles(tx, opened, closed, today, now)
    await _enter(tx, opened, closed, today, causes, now)


async def _insert_cycles(
    tx: Connection,
    opened: Sequence[Opened],
    closed: Sequence[Closed],
    today: Mapping[UUID, datetime],
    now: datetime,
) -> None:
    cycles = [
        _Cycle(
            one.row,
            InvoiceKind.PERIOD,
            one.period.end,
            new_id(now),
            one.period.start,
            one.plan_id,
            None,
        )
        for one in opened
    ]
    cycles += [
        _Cycle(
            one.row,
            one.kind,
            one.boundary,
            one.cycle_id,
            one.ended.start if one.ended else None,
            one.plan_id if one.ended else None,
            today[one.row.tenant_id],
        )
        for one in closed
    ]
    await queries.cycles.insert_cycles(
        tx,
        tenant_ids=[cycle.row.tenant_id for cycle in cycles],
        subscription_ids=[cycle.row.id for cycle in cycles],
        kinds=[cycle.kind for cycle in cycles],
        boundaries=[cycle.boundary for cycle in cycles],
        ids=[cycle.id for cycle in cycles],
        period_starts=[cycle.period_start for cycle in cycles],
        plan_ids=[cycle.plan_id for cycle in cycles],
        closed_ats=[cycle.closed_at for cycle in cycles],
    )


async def _enter(
    tx: Connection,
    opened: Sequence[Opened],
    closed: Sequence[Closed],
    today: Mapping[UUID, datetime],
    causes: Mapping[UUID, Cause],
    now: datetime,
) -> None:
    """Fees, usage periods one ahead, the subscriptions' own period and due time, the events of what was closed, and
    the levels that stand."""
    await make_fee_periods(tx, [one.fees for one in opened])
    await make_usage_periods(tx, [(one.row, one.ahead) for one in opened])
    entered = await queries.cycles.open_periods(
        tx,
        tenant_ids=[one.row.tenant_id for one in opened],
        ids=[one.row.id for one in opened],
        period_indexes=[one.terms.schedule.index_at(one.period.start) for one in opened],
        period_starts=[one.period.start for one in opened],
        period_ends=[one.period.end for one in opened],
    )
    versions = {row.id: row.version for row in entered}
    told = [
        _closed_event(
            one,
            versions[one.row.id],
            today[one.row.tenant_id],
            _linked(one.row, causes[one.row.id]),
        )
        for one in closed
    ]
    ids = await events.emit(tx, told, now=now)
    begins = {one.row.id: one.period.start for one in opened}
    await mark_standing_levels(
        tx,
        [
            Begun(one.row, begins[one.row.id], Link(id_, event.cause.correlation_id))
            for one, event, id_ in zip(closed, told, ids, strict=True)
        ],
    )


def _closed_event(one: Closed, version: int, today: datetime, cause: Cause) -> events.NewEvent:
    resource = encode(Prefix.SUBSCRIPTION, one.row.id)
    payload = payloads.BillingCycleClosed(
        cycle_id=encode(Prefix.CYCLE, one.cycle_id), subscription_id=resource, kind=one.kind
    )
    payload.boundary_time.FromDatetime(one.boundary)
    if one.ended is not None:
        payload.period.start.FromDatetime(one.ended.start)
        payload.period.end.FromDatetime(one.ended.end)
    return events.NewEvent(one.row.tenant_id, resource, version, payload, today, cause)


def _linked(row: Subscription, cause: Cause) -> Cause:
    """A cycle closes because time has passed; it is linked to the rating of what it bills."""
    if row.rated_event_id is None or row.rated_correlation_id is None:
        return cause
    return replace(cause, links=(Link(row.rated_event_id, row.rated_correlation_id),))


def _activates(event: Incoming) -> bool:
    if event.subject != _STATUS_CHANGED:
        return False
    payload = event.payload(subscription_events_pb2.SubscriptionStatusChanged)
    return payload.new_status == _ACTIVE
