"""Subscription path, step 2: created -> trialing -> active, when the instant has come.

Invariant: a step is made once, by whoever is first (the consumer of subscription.created, or the scheduler), under
the subscription's row lock; the guarded UPDATE has the last word. Each step takes effect at its own instant, however
late it is made, and tells one subscription.status.changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.subscriptions
from queries.models import Subscription
from tollway.subscription.v1 import subscription_events_pb2 as payloads
from tollway.subscription.v1 import subscription_service_pb2 as pb

from billing.domain.ids import Prefix, decode, encode
from billing.domain.subscription import SubscriptionAction, SubscriptionStatus, apply_lifecycle
from billing.runtime.db import Connection
from billing.services import events
from billing.services.actor import Cause
from billing.services.business_time import business_times
from billing.services.incoming import Incoming
from billing.services.subscription_terms import Terms

ROUTER: Final = "worker:router"


@dataclass(frozen=True, slots=True)
class _Step:
    """One subscription's next state; `at` is since when, `next_due_at` when the scheduler is needed again."""

    row: Subscription
    status: SubscriptionStatus
    at: datetime
    anchor_at: datetime | None
    next_due_at: datetime | None


async def start_due(
    tx: Connection, incoming: Sequence[Incoming], now: datetime
) -> Collection[UUID]:
    """Consumer `subscription`, of subscription.created: starts what has come, leaves the rest to the scheduler."""
    causes = {_subscription_id(event): event.cause(ROUTER) for event in incoming}
    rows = await lock_subscriptions(tx, incoming)
    today = await business_times(tx, {row.tenant_id for row in rows}, now)
    created = [row for row in rows if row.status == SubscriptionStatus.CREATED]
    later = [row for row in created if not _starts(row, today[row.tenant_id])]
    if later:
        await queries.subscriptions.postpone_starts(
            tx, tenant_ids=[row.tenant_id for row in later], ids=[row.id for row in later]
        )
    started = [row for row in created if _starts(row, today[row.tenant_id])]
    await move_on(tx, started, today, causes, now=now)
    return ()


def _starts(row: Subscription, today: datetime) -> bool:
    """Whether its start has come; what is scheduled for no later comes before it, and is the scheduler's."""
    waits = row.change_due_at is not None and row.change_due_at <= row.start_at
    return row.start_at <= today and not waits


async def lock_subscriptions(tx: Connection, incoming: Sequence[Incoming]) -> list[Subscription]:
    """The rows of the subscriptions that these events are about, locked in order."""
    keys = sorted({(event.tenant_id, _subscription_id(event)) for event in incoming})
    return await queries.subscriptions.lock_subscriptions(
        tx, tenant_ids=[tenant for tenant, _ in keys], ids=[identity for _, identity in keys]
    )


async def move_on(
    tx: Connection,
    rows: Sequence[Subscription],
    today: Mapping[UUID, datetime],
    causes: Mapping[UUID, Cause],
    *,
    now: datetime,
) -> None:
    """Starts or activates subscriptions whose instant has come, for callers that hold their locks.

    `today` is the business time by tenant, `causes` go by subscription. One step each: what is due behind it is done by
    the next claim, so that every step has its event.
    """
    if not rows:
        return
    steps = [_next_step(row) for row in rows]
    moved = await queries.subscriptions.move_subscriptions(
        tx,
        tenant_ids=[step.row.tenant_id for step in steps],
        ids=[step.row.id for step in steps],
        old_statuses=[step.row.status for step in steps],
        new_statuses=[step.status for step in steps],
        anchor_ats=[step.anchor_at for step in steps],
        next_due_ats=[step.next_due_at for step in steps],
    )
    versions = {row.id: row.version for row in moved}
    told = [
        _changed(step, versions[step.row.id], today[step.row.tenant_id], causes[step.row.id])
        for step in steps
        if step.row.id in versions
    ]
    await events.emit(tx, told, now=now)


def _next_step(row: Subscription) -> _Step:
    terms = Terms.of(row)
    status = SubscriptionStatus(row.status)
    if status is SubscriptionStatus.CREATED and terms.trial_end_at is not None:
        after, _ = apply_lifecycle(status, SubscriptionAction.START_TRIAL, terms.start_at)
        return _Step(row, after, terms.start_at, row.anchor_at, terms.trial_end_at)
    after, _ = apply_lifecycle(status, SubscriptionAction.ACTIVATE, terms.activation_at)
    # Not due before the scheduler's consumer has opened the first period.
    return _Step(row, after, terms.activation_at, terms.schedule.anchor, None)


def _changed(step: _Step, version: int, today: datetime, cause: Cause) -> events.NewEvent:
    resource = encode(Prefix.SUBSCRIPTION, step.row.id)
    payload = payloads.SubscriptionStatusChanged(
        subscription_id=resource,
        old_status=wire_status(step.row.status),
        new_status=wire_status(step.status),
    )
    payload.effective_time.FromDatetime(step.at)
    return events.NewEvent(step.row.tenant_id, resource, version, payload, today, cause)


def wire_status(status: str) -> pb.SubscriptionStatus.ValueType:
    """A stored status as the contract spells it."""
    return pb.SubscriptionStatus.Value(f"SUBSCRIPTION_STATUS_{status.upper()}")


def _subscription_id(event: Incoming) -> UUID:
    return decode(Prefix.SUBSCRIPTION, event.resource)
