"""Replay path, beside steps 3 and 4: a replay is paused, resumed, canceled, stopped by an error, or finished.

Invariant: each is a row of the machine in billing/domain/replay.py, under the replay's row lock. A paused replay sends
nothing: what it has queued is held in the outbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.replays
from queries.models import Replay
from tollway.replay.v1 import replay_events_pb2

from billing.domain.errors import NotFound
from billing.domain.ids import Prefix, encode
from billing.domain.replay import MACHINE, ReplayAction, ReplayStatus, apply_lifecycle
from billing.runtime import hints
from billing.runtime.db import Connection
from billing.services import events
from billing.services.actor import Cause

ACTOR: Final = "worker:replay"
_MINUTE: Final = 60_000 << 80  # in the milliseconds that a UUIDv7 begins with


class ReplayNotFound(NotFound):
    """There is no such replay."""

    reason = "REPLAY_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class Order:
    """Who orders it, by which method, and why; `tenant_id` bounds it to one tenant's replays."""

    cause: Cause
    note: str
    tenant_id: UUID | None


async def move(
    tx: Connection, replay_id: UUID, action: ReplayAction, order: Order, *, now: datetime
) -> Replay:
    """Pauses, resumes or cancels. Raises ReplayNotFound or InvalidTransition."""
    row = await queries.replays.lock_replay(tx, id=replay_id, tenant_id=order.tenant_id)
    if row is None:
        raise not_found(replay_id)
    following, _ = apply_lifecycle(ReplayStatus(row.status), action, now)
    ended = following is ReplayStatus.CANCELED
    counts = await queries.replays.count_queued(tx, id=row.id)
    assert counts is not None, "counts are always a row"
    match action:
        case ReplayAction.PAUSE:
            await queries.replays.hold_queued(tx, replay_id=row.id)
        case ReplayAction.RESUME:
            await queries.replays.release_queued(tx, replay_id=row.id)
            hints.wake(hints.OUTBOX)
        case _:
            await queries.replays.drop_queued(tx, replay_id=row.id)
    moved = await queries.replays.move_replay(
        tx,
        tenant_id=row.tenant_id,
        id=row.id,
        status=following,
        status_note=order.note,
        # What has failed so far was seen by whoever resumes.
        failures_accepted=row.failed + counts.dead,
        unsent=counts.queued if ended else 0,
        dead=counts.dead if ended else 0,
        from_statuses=[str(status) for status in MACHINE.sources(action)],
        now=now,
    )
    assert moved is not None, "the row is locked, and its state was checked"
    if ended:
        await _tell_end(tx, moved, order.cause.actor, now)
    return moved


async def stop_on_error(tx: Connection, row: Replay, failed: int, *, now: datetime) -> None:
    """Pauses a replay that is to stop on errors. The row is locked."""
    await queries.replays.hold_queued(tx, replay_id=row.id)
    await queries.replays.move_replay(
        tx,
        tenant_id=row.tenant_id,
        id=row.id,
        status=ReplayStatus.PAUSED,
        status_note=f"stopped on an error: {failed} events failed",
        failures_accepted=row.failures_accepted,
        unsent=0,
        dead=0,
        from_statuses=[str(ReplayStatus.RUNNING)],
        now=now,
    )


async def finish(tx: Connection, row: Replay, dead: int, *, now: datetime) -> None:
    """Ends a replay, and emits billing.replay.finished. The row is locked."""
    ended = await queries.replays.finish_replay(
        tx, tenant_id=row.tenant_id, id=row.id, now=now, dead=dead
    )
    assert ended is not None, "the row is locked and was running"
    await _tell_end(tx, ended, ACTOR, now)


def not_found(replay_id: UUID) -> ReplayNotFound:
    """The error for a replay that is not there, or not this tenant's."""
    return ReplayNotFound(metadata={"replay": encode(Prefix.REPLAY, replay_id)})


async def _tell_end(tx: Connection, row: Replay, actor: str, now: datetime) -> None:
    resource = encode(Prefix.REPLAY, row.id)
    # The id bounds the search to the partitions of that time: the start's event was made in the same second.
    started = await queries.replays.find_started_event(
        tx, tenant_id=row.tenant_id, resource=resource, first=UUID(int=row.id.int - _MINUTE)
    )
    assert started is not None, "a replay and the event of its start are committed together"
    outcome = (
        replay_events_pb2.REPLAY_OUTCOME_CANCELED
        if row.status == ReplayStatus.CANCELED
        else replay_events_pb2.REPLAY_OUTCOME_FINISHED
    )
    payload = replay_events_pb2.BillingReplayFinished(
        replay_id=resource,
        published=row.armed,
        skipped=row.skipped,
        failed=row.failed,
        outcome=outcome,
    )
    cause = Cause(actor, started.correlation_id, started.id)
    event = events.NewEvent(row.tenant_id, resource, row.version, payload, now, cause)
    await events.emit(tx, [event], now=now)
