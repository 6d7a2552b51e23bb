"""Replay path, steps 3 and 4: a running replay is armed slice by slice, waits for its consumers, and ends.

Invariant: a slice is queued in the transaction that says how far the replay has come, under the replay's row lock, so a
worker that dies repeats nothing and skips nothing. An event is sent again only after its first publication; one whose
first publication is dead is never sent past it, and counts as failed. No payload is touched: the outbox names events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final
from uuid import UUID

import queries.replays
from queries.models import Replay
from queries.replays import ListRunningRow as Running
from queries.replays import ListSliceRow as Event
from tollway.replay.v1 import replay_events_pb2

from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.services import events
from billing.services.actor import Cause
from billing.services.consumers import Wanted
from billing.services.replay_token import ReplayPlan

__all__ = ["Pace", "Running", "advance", "list_running"]

ACTOR: Final = "worker:replay"
# A worker that was away for longer does not make up for it with a burst.
_RATE_WINDOW: Final = timedelta(seconds=1)
_ALL: Final = "*"
_MINUTE: Final = 60_000 << 80  # in the milliseconds that a UUIDv7 begins with


@dataclass(frozen=True, slots=True)
class Pace:
    """How many events a transaction takes, how many may be queued at once, and when to send a lost one again."""

    slice_max: int
    queued_max: int
    # Longer than the bus remembers an id, so that it does not take the second sending for a duplicate.
    rearm_after: timedelta


@dataclass(frozen=True, slots=True)
class _Run:
    """A replay whose row this transaction has locked."""

    row: Replay
    plan: ReplayPlan
    wanted: Wanted
    pace: Pace
    now: datetime

    @property
    def purpose(self) -> str:
        """What its rows in the outbox are there for."""
        return f"replay_{self.row.id}"

    @property
    def last(self) -> UUID:
        """The end of its range."""
        return self.plan.filter.conditions()["last"]


async def list_running(connection: Connection, after: UUID, *, most: int) -> list[Running]:
    """The running replays of all tenants after this one, in the order of their ids."""
    return await queries.replays.list_running(connection, after=after, most=most)


async def advance(
    tx: Connection, running: Running, wanted: Wanted, pace: Pace, *, now: datetime
) -> int:
    """Takes one bounded step of a replay; 0 when there is nothing to do now. Needs the worker role.

    It arms while few of its own are queued; then it waits until every consumer in `wanted` has its events; then it
    ends, and emits billing.replay.finished.
    """
    row = await queries.replays.lock_running(tx, tenant_id=running.tenant_id, id=running.id)
    if row is None:
        return 0
    run = _Run(row, ReplayPlan.parse(row.plan), wanted, pace, now)
    counts = await queries.replays.count_queued(tx, id=row.id)
    assert counts is not None, "counts are always a row"
    if row.armed_until != run.last:
        return await _arm(tx, run, counts.queued)
    if counts.queued:
        return 0
    if wanted and row.settled_until != run.last:
        return await _settle(tx, run)
    await _finish(tx, run, counts.dead)
    return 1


# --- step 3: arm


async def _arm(tx: Connection, run: _Run, queued: int) -> int:
    rate = run.plan.rate_per_second
    since = max(run.row.armed_at, run.now - _RATE_WINDOW)
    budget = int((run.now - since).total_seconds() * rate) if rate else run.pace.slice_max
    most = min(run.pace.slice_max, run.pace.queued_max - queued, budget)
    if most <= 0:
        return 0
    given = await _list_slice(tx, run, run.row.armed_until, most, consumers=list(run.wanted))
    # Never ahead of a first publication, whatever the bus is doing to it.
    taken = list(takewhile(lambda event: not event.unpublished, given))
    exhausted = len(taken) == len(given) < most
    if not taken and not exhausted:
        return 0
    sent = [event for event in taken if not event.dead]
    await _queue(tx, run, sent)
    await queries.replays.move_armed(
        tx,
        tenant_id=run.row.tenant_id,
        id=run.row.id,
        armed=len(sent),
        skipped=sum(event.processed for event in sent),
        failed=len(taken) - len(sent),
        armed_until=run.last if exhausted else taken[-1].id,
        armed_at=since + timedelta(seconds=len(sent) / rate) if rate else run.now,
    )
    return max(len(taken), 1)


async def _queue(tx: Connection, run: _Run, sent: Iterable[Event]) -> None:
    ordered = _in_order(sent)
    if not ordered:
        return
    await queries.replays.arm_replay(
        tx,
        purpose=run.purpose,
        tenant_id=run.row.tenant_id,
        replay_id=run.row.id,
        event_ids=[event.id for event in ordered],
        subjects=[event.subject for event in ordered],
        resources=[event.resource for event in ordered],
        hashes=[events.resource_hash(run.row.tenant_id, event.resource) for event in ordered],
    )


def _in_order(sent: Iterable[Event]) -> list[Event]:
    """By id, and within a resource by version: of two transactions, the later in line may have made its id first."""
    latest: dict[str, UUID] = {}
    keyed = []
    for event in sorted(sent, key=lambda event: (event.resource_version, event.id)):
        place = latest[event.resource] = max(latest.get(event.resource, event.id), event.id)
        keyed.append((place, event.resource_version, event))
    keyed.sort(key=lambda item: item[:2])
    return [event for _, _, event in keyed]


# --- step 4: wait for the consumers, and end


async def _settle(tx: Connection, run: _Run) -> int:
    """Moves past what every consumer has handled, or has waiting or dead: that is in the router's hands, and shows
    there. What came to no consumer in a long time was lost on the way and is sent again."""
    most = run.pace.slice_max
    given = await _list_slice(tx, run, run.row.settled_until, most, wanting=run.wanted)
    settled = list(takewhile(_accounted, given))
    exhausted = len(settled) == len(given) < most
    lost: list[Event] = []
    if run.now - run.row.armed_at >= run.pace.rearm_after:
        lost = [event for event in given if not _accounted(event) and not event.unpublished]
        await _queue(tx, run, lost)
    if not (settled or lost or exhausted):
        return 0
    until = settled[-1].id if settled else run.row.settled_until
    await queries.replays.move_settled(
        tx,
        tenant_id=run.row.tenant_id,
        id=run.row.id,
        settled_until=run.last if exhausted else until,
        armed_at=run.now if lost else run.row.armed_at,
    )
    return max(len(settled) + len(lost), 1)


def _accounted(event: Event) -> bool:
    return event.dead or not event.lacking


async def _finish(tx: Connection, run: _Run, dead: int) -> None:
    tenant_id = run.row.tenant_id
    row = await queries.replays.finish_replay(
        tx, tenant_id=tenant_id, id=run.row.id, now=run.now, dead=dead
    )
    assert row is not None, "the row is locked and was running"
    resource = encode(Prefix.REPLAY, row.id)
    # The id bounds the search to the partitions of that time: the start's event was made in the same second.
    started = await queries.replays.find_started_event(
        tx, tenant_id=tenant_id, resource=resource, first=UUID(int=row.id.int - _MINUTE)
    )
    assert started is not None, "a replay and the event of its start are committed together"
    payload = replay_events_pb2.BillingReplayFinished(
        replay_id=resource, published=row.armed, skipped=row.skipped, failed=row.failed
    )
    cause = Cause(ACTOR, started.correlation_id, started.id)
    event = events.NewEvent(tenant_id, resource, row.version, payload, run.now, cause)
    await events.emit(tx, [event], now=run.now)


async def _list_slice(
    tx: Connection,
    run: _Run,
    after: UUID | None,
    most: int,
    *,
    consumers: Sequence[str] = (),
    wanting: Wanted | None = None,
) -> list[Event]:
    """The next events after this one, and whether one of `consumers` has, or of `wanting` lacks them."""
    conditions = run.plan.filter.conditions()
    if after is not None:
        conditions["first"] = max(conditions["first"], UUID(int=after.int + 1))
    pairs = [
        (consumer, subject)
        for consumer, subjects in (wanting or {}).items()
        for subject in (sorted(subjects) if subjects is not None else [_ALL])
    ]
    return await queries.replays.list_slice(
        tx,
        **conditions,
        most=most,
        purpose=run.purpose,
        consumers=consumers,
        wanting_consumers=[consumer for consumer, _ in pairs],
        wanted_subjects=[subject for _, subject in pairs],
    )
