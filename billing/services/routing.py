"""Router, steps 2 and 3: how far a partition has come, which consumer has handled what, and what waits.

Invariant: every statement of a router's transaction stands behind the position row of its partition: locked first, and
guarded by the lease's term, the stream's identity and the previous position. So an event is handled once per consumer,
and a router that has lost its lease changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.router
from queries.models import RouterWaiting

from billing.runtime.bus.base import StreamState
from billing.runtime.db import Connection, Database
from billing.services.leases import Lease

LIVE: Final = UUID(int=0)  # the replay id of an event that comes for the first time
ANY_CONSUMER: Final = "*"
ERROR_LENGTH_MAX: Final = 500
CONSUMERS_MAX: Final = 31  # bits of a positive int4
CONSUMER_LENGTH_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class Position:
    """Where a partition's router goes on: behind `sequence` of the stream `identity`."""

    identity: str
    sequence: int
    reset: bool = False  # the stream was another one
    gap: bool = False  # the stream began ahead of the position


@dataclass(frozen=True, slots=True)
class Advance:
    """One partition's part of a cycle: from the known position to the last message taken."""

    lease: Lease
    identity: str
    known_sequence: int
    last_sequence: int
    events: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """The events of a cycle in columns; bit n of `wanted` is set for the consumer at place n."""

    event_ids: list[UUID]
    tenant_ids: list[UUID]
    partitions: list[int]
    wanted: list[int]


@dataclass(frozen=True, slots=True)
class Marked:
    """Which partitions' guards held, and which (place of the consumer, event id) had been handled before."""

    partitions: frozenset[int]
    repeated: frozenset[tuple[int, UUID]]


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event that waits for a consumer. `attempts` counts the tries that failed by its own fault.

    `next_attempt_at` is None while its consumer or tenant is paused. `paused`: a pause parked it, or it stands behind
    such a one, so it holds back its resource for unordered consumers too.
    """

    consumer: str
    resource: str
    resource_version: int
    event_id: UUID
    tenant_id: UUID
    partition: int
    subject: str
    next_attempt_at: datetime | None
    attempts: int = 0
    last_error: str = ""
    replay_id: UUID = LIVE
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    """A waiting event whose time has come, and since when it waits."""

    waiting: Waiting
    parked_at: datetime


async def open_position(database: Database, lease: Lease, stream: StreamState) -> Position | None:
    """The position to read from, brought in line with the stream as it is now; None when the lease is lost.

    Another stream than stored, or one that ends below the position, resets it to the stream's beginning. A stream
    that begins ahead of the position (trimmed, or lost) moves it there and counts a gap. Both are guarded.
    """
    async with database.transaction() as tx:
        stored = await queries.router.get_position(tx, partition=lease.shard)
        if stored is None or stored.term != lease.term:
            return None
        before_first = stream.first_seq - 1
        other = stored.stream_identity != stream.identity or stream.last_seq < stored.last_sequence
        gap = not other and before_first > stored.last_sequence
        if not other and not gap:
            return Position(stored.stream_identity, stored.last_sequence)
        moved = await queries.router.reset_position(
            tx,
            partition=lease.shard,
            term=lease.term,
            known_identity=stored.stream_identity,
            known_sequence=stored.last_sequence,
            identity=stream.identity,
            last_sequence=before_first,
            gaps=int(gap),
        )
    if not moved:
        return None
    # The first stream of all is no change.
    return Position(stream.identity, before_first, other and bool(stored.stream_identity), gap)


async def advance_and_mark(
    tx: Connection, advances: Sequence[Advance], consumers: Sequence[str], arrived: Arrived
) -> Marked:
    """Moves the positions and writes the inbox rows of all consumers, in one statement.

    A partition whose guard fails is left out whole. At most CONSUMERS_MAX consumers.
    """
    rows = await queries.router.advance_and_mark(
        tx,
        partitions=[advance.lease.shard for advance in advances],
        terms=[advance.lease.term for advance in advances],
        identities=[advance.identity for advance in advances],
        known_sequences=[advance.known_sequence for advance in advances],
        last_sequences=[advance.last_sequence for advance in advances],
        consumers=consumers,
        event_ids=arrived.event_ids,
        tenant_ids=arrived.tenant_ids,
        event_partitions=arrived.partitions,
        wanted=arrived.wanted,
    )
    return Marked(
        frozenset(row.partition for row in rows if row.partition is not None),
        frozenset(
            (row.place, row.event_id)
            for row in rows
            if row.place is not None and row.event_id is not None
        ),
    )


async def lock_positions(tx: Connection, leases: Sequence[Lease]) -> frozenset[int]:
    """Locks the positions of the partitions that are still held under these terms, and names them."""
    locked = await queries.router.lock_positions(
        tx,
        partitions=[lease.shard for lease in leases],
        terms=[lease.term for lease in leases],
    )
    return frozenset(locked)


async def unmark(tx: Connection, consumer: str, event_ids: Collection[UUID]) -> None:
    """Takes inbox rows of this transaction back: the handler answered that these events must wait."""
    await queries.router.delete_inbox(tx, consumer=consumer, event_ids=sorted(event_ids))


async def park(tx: Connection, waiting: Sequence[Waiting], *, now: datetime) -> None:
    """Lets events wait. Parking one twice is a no-op."""
    if not waiting:
        return
    await queries.router.insert_waiting(
        tx,
        now=now,
        consumers=[row.consumer for row in waiting],
        resources=[row.resource for row in waiting],
        resource_versions=[row.resource_version for row in waiting],
        event_ids=[row.event_id for row in waiting],
        replay_ids=[row.replay_id for row in waiting],
        tenant_ids=[row.tenant_id for row in waiting],
        partitions=[row.partition for row in waiting],
        subjects=[row.subject for row in waiting],
        attempts=[row.attempts for row in waiting],
        next_attempt_ats=[row.next_attempt_at for row in waiting],
        last_errors=[row.last_error[:ERROR_LENGTH_MAX] for row in waiting],
        paused=[row.paused for row in waiting],
    )


async def list_due(
    connection: Connection,
    partitions: Collection[int],
    *,
    ordered: Collection[str],
    now: datetime,
    most: int,
) -> list[Due]:
    """What is due in these partitions, the longest due first; of the resources of the `ordered` only the heads."""
    rows = await queries.router.list_due_waiting(
        connection,
        partitions=sorted(partitions),
        ordered=[ANY_CONSUMER, *ordered],
        now=now,
        most=most,
    )
    return [due_of(row) for row in rows]


def due_of(row: RouterWaiting) -> Due:
    """A row of router_waiting."""
    return Due(
        Waiting(
            consumer=row.consumer,
            resource=row.resource,
            resource_version=row.resource_version,
            event_id=row.event_id,
            tenant_id=row.tenant_id,
            partition=row.partition,
            subject=row.subject,
            next_attempt_at=row.next_attempt_at,
            attempts=row.attempts,
            last_error=row.last_error,
            replay_id=row.replay_id,
            paused=row.paused,
        ),
        row.parked_at,
    )


async def load_logged(connection: Connection, event_ids: Collection[UUID]) -> Mapping[UUID, bytes]:
    """The envelopes of these events, as far as the log has them."""
    if not event_ids:
        return {}
    rows = await queries.router.list_logged(
        connection, ids=sorted(event_ids), first=min(event_ids), last=max(event_ids)
    )
    return {row.id: row.envelope for row in rows}


async def drop_waiting(tx: Connection, waiting: Sequence[Waiting]) -> None:
    """Removes rows that wait no longer."""
    if waiting:
        await queries.router.delete_waiting(
            tx,
            consumers=[row.consumer for row in waiting],
            resources=[row.resource for row in waiting],
            resource_versions=[row.resource_version for row in waiting],
            event_ids=[row.event_id for row in waiting],
            replay_ids=[row.replay_id for row in waiting],
        )


async def postpone(tx: Connection, waiting: Sequence[Waiting]) -> None:
    """Writes the rows' new attempts, errors and times."""
    if waiting:
        # What has been tried has a time.
        times = [row.next_attempt_at for row in waiting if row.next_attempt_at is not None]
        assert len(times) == len(waiting), "only what is parked has none"
        await queries.router.postpone_waiting(
            tx,
            consumers=[row.consumer for row in waiting],
            resources=[row.resource for row in waiting],
            resource_versions=[row.resource_version for row in waiting],
            event_ids=[row.event_id for row in waiting],
            replay_ids=[row.replay_id for row in waiting],
            attempts=[row.attempts for row in waiting],
            next_attempt_ats=times,
            last_errors=[row.last_error[:ERROR_LENGTH_MAX] for row in waiting],
            paused=[row.paused for row in waiting],
        )


async def bury(tx: Connection, waiting: Sequence[Waiting], *, now: datetime) -> None:
    """Moves rows that have had their last attempt to the dead letters."""
    if not waiting:
        return
    await drop_waiting(tx, waiting)
    await queries.router.insert_router_dead_letters(
        tx,
        now=now,
        consumers=[row.consumer for row in waiting],
        resources=[row.resource for row in waiting],
        resource_versions=[row.resource_version for row in waiting],
        event_ids=[row.event_id for row in waiting],
        replay_ids=[row.replay_id for row in waiting],
        tenant_ids=[row.tenant_id for row in waiting],
        partitions=[row.partition for row in waiting],
        subjects=[row.subject for row in waiting],
        attempts=[row.attempts for row in waiting],
        last_errors=[row.last_error[:ERROR_LENGTH_MAX] for row in waiting],
    )
