"""Router, step 3: one cycle, that is, some partitions' events into every consumer in one transaction.

Invariant: positions, inbox rows, effects, follow-up events and parked events of a cycle are committed together or not
at all; an event's own fault sends that event to wait, for the consumer that failed alone, and never stops a partition.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from billing.runtime.db import Connection, Database
from billing.runtime.faults import Fault, fault_of
from billing.services import routing
from billing.services.incoming import Incoming
from billing.services.routing import ANY_CONSUMER, Advance, Arrived, Marked, Waiting
from workers.router.arrivals import Arrival
from workers.router.consumers import Consumer, Routes
from workers.router.isolation import describe, handle_apart, refuse_overtaking
from workers.router.parts import Part, read_standing
from workers.router.settings import RouterSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cycle:
    """What one transaction is to do: the partitions' advances and the events on the way."""

    advances: list[Advance]
    arrivals: list[Arrival]
    now: datetime


@dataclass(slots=True)
class Done:
    """What a committed cycle did; `partitions` are those whose guard held."""

    partitions: frozenset[int] = frozenset()
    parked: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    faults: Counter[Fault] = field(default_factory=Counter)
    slow: bool = False  # a time limit stood in the way of all together


class CycleRunner:
    """Runs cycles: the fast way first, and the slow way when an event is at fault."""

    def __init__(self, database: Database, routes: Routes, settings: RouterSettings) -> None:
        self._database, self._routes, self._settings = database, routes, settings

    async def run(self, cycle: Cycle) -> Done:
        """Commits the cycle. Raises what the database does when it is away; then nothing was done, or all of it.

        A time limit that stands in the way three times comes back as `slow`, with nothing done, when the cycle has
        more than one event: the caller then takes them one by one, each in a transaction of its own.
        """
        done = Done()
        while True:
            try:
                await self._together(cycle, done)
            except Exception as error:
                fault = fault_of(error)
                done.faults[fault] += 1
                if fault is Fault.DATA:
                    break
                if done.faults.total() > self._settings.repeats_max:
                    if fault is Fault.OUTAGE:
                        raise
                    done.slow = len(cycle.arrivals) > 1
                    break
                log.info("a cycle is repeated after %s", describe(error))
            else:
                return done
        if not done.slow:
            await self._apart(cycle, done)
        return done

    # --- the fast way: one statement for positions and inbox, no savepoints

    async def _together(self, cycle: Cycle, done: Done) -> None:
        consumers = self._routes.consumers
        parked: list[Waiting] = []
        async with self._database.transaction() as tx:
            marked = await routing.advance_and_mark(
                tx, cycle.advances, self._routes.names, _columns(cycle.arrivals)
            )
            arrivals = _guarded(cycle, marked)
            standing = await read_standing(tx, arrivals)
            for place, consumer in enumerate(consumers):
                part = standing.part(consumer, _fresh(arrivals, place, marked.repeated))
                fresh = part.fresh
                waiting = set(await consumer.handle(tx, fresh, cycle.now)) if fresh else set()
                refuse_overtaking(consumer, fresh, waiting)
                part.held |= waiting
                if part.unhandled:
                    await routing.unmark(tx, consumer.name, part.unhandled)
                    parked += self._to_wait(consumer, arrivals, part, cycle.now)
            parked += self._unknown(arrivals, cycle.now)
            await routing.park(tx, parked, now=cycle.now)
        done.partitions = marked.partitions
        done.parked.update(row.consumer for row in parked)
        done.repeated.update(consumers[place].name for place, _ in marked.repeated)

    # --- the slow way: a savepoint per consumer, then smaller parts

    async def _apart(self, cycle: Cycle, done: Done) -> None:
        try:
            await self._in_savepoints(cycle, done)
        except Exception as error:
            # A single event that ends the whole transaction by a time limit can only be set aside unseen.
            if fault_of(error) is not Fault.TIME_LIMIT or len(cycle.arrivals) > 1:
                raise
            await self._set_aside(cycle, describe(error), done)

    async def _in_savepoints(self, cycle: Cycle, done: Done) -> None:
        parked: list[Waiting] = []
        async with self._database.transaction() as tx:
            marked = await self._advance_only(tx, cycle)
            arrivals = _guarded(cycle, marked)
            standing = await read_standing(tx, arrivals)
            for place, consumer in enumerate(self._routes.consumers):
                part = standing.part(consumer, _fresh(arrivals, place, frozenset()))
                isolated = await handle_apart(tx, consumer, part.fresh, cycle.now)
                part.held |= isolated.waiting | isolated.held
                parked += self._to_wait(consumer, arrivals, part, cycle.now)
                parked += self._failed(consumer, arrivals, isolated.failed, cycle.now)
            parked += self._unknown(arrivals, cycle.now)
            await routing.park(tx, parked, now=cycle.now)
        done.partitions = marked.partitions
        done.parked.update(row.consumer for row in parked)

    async def _set_aside(self, cycle: Cycle, error: str, done: Done) -> None:
        parked: list[Waiting] = []
        async with self._database.transaction() as tx:
            marked = await self._advance_only(tx, cycle)
            arrivals = _guarded(cycle, marked)
            standing = await read_standing(tx, arrivals)
            for place, consumer in enumerate(self._routes.consumers):
                part = standing.part(consumer, _fresh(arrivals, place, frozenset()))
                parked += self._to_wait(consumer, arrivals, part, cycle.now)
                failed = {event.event_id: error for event in part.fresh}
                parked += self._failed(consumer, arrivals, failed, cycle.now)
            parked += self._unknown(arrivals, cycle.now)
            await routing.park(tx, parked, now=cycle.now)
        done.partitions = marked.partitions
        done.parked.update(row.consumer for row in parked)

    async def _advance_only(self, tx: Connection, cycle: Cycle) -> Marked:
        return await routing.advance_and_mark(tx, cycle.advances, [], Arrived([], [], [], []))

    # --- rows that wait

    def _to_wait(
        self, consumer: Consumer, arrivals: Sequence[Arrival], part: Part, now: datetime
    ) -> list[Waiting]:
        soon = now + self._settings.wait_min
        return [
            waiting_row(
                consumer.name,
                arrival.incoming,
                None if event_id in part.paused else soon,
                replay_id=arrival.replay_id,
                paused=event_id in part.paused or event_id in part.parked,
            )
            for arrival in arrivals
            if (event_id := arrival.incoming.event_id) in part.paused
            or event_id in part.parked
            or event_id in part.held
        ]

    def _failed(
        self,
        consumer: Consumer,
        arrivals: Sequence[Arrival],
        errors: dict[UUID, str],
        now: datetime,
    ) -> list[Waiting]:
        at = now + self._settings.failed_backoff.delay(1, jitter_permille=0)
        return [
            waiting_row(
                consumer.name,
                arrival.incoming,
                at,
                replay_id=arrival.replay_id,
                error=errors[arrival.incoming.event_id],
            )
            for arrival in arrivals
            if arrival.incoming.event_id in errors
        ]

    def _unknown(self, arrivals: Sequence[Arrival], now: datetime) -> list[Waiting]:
        at = now + self._settings.unknown_wait
        return [
            waiting_row(ANY_CONSUMER, arrival.incoming, at, replay_id=arrival.replay_id)
            for arrival in arrivals
            if arrival.unknown
        ]


def waiting_row(
    consumer: str,
    event: Incoming,
    at: datetime | None,
    *,
    replay_id: UUID,
    error: str | None = None,
    paused: bool = False,
) -> Waiting:
    """An event that waits for `consumer`, until it is resumed when `at` is None; with an error its first attempt is
    counted."""
    return Waiting(
        consumer=consumer,
        resource=event.resource,
        resource_version=event.resource_version,
        event_id=event.event_id,
        tenant_id=event.tenant_id,
        partition=event.partition,
        subject=event.subject,
        next_attempt_at=at,
        attempts=0 if error is None else 1,
        last_error=error or "",
        replay_id=replay_id,
        paused=paused,
    )


def _columns(arrivals: Sequence[Arrival]) -> Arrived:
    wanted = [arrival for arrival in arrivals if arrival.wanted]
    events = [arrival.incoming for arrival in wanted]
    return Arrived(
        [event.event_id for event in events],
        [event.tenant_id for event in events],
        [event.partition for event in events],
        [arrival.wanted for arrival in wanted],
    )


def _guarded(cycle: Cycle, marked: Marked) -> list[Arrival]:
    """The events of the partitions that are still ours."""
    if len(marked.partitions) == len(cycle.advances):
        return cycle.arrivals
    return [a for a in cycle.arrivals if a.incoming.partition in marked.partitions]


def _fresh(
    arrivals: Sequence[Arrival], place: int, repeated: frozenset[tuple[int, UUID]]
) -> list[Incoming]:
    bit = 1 << place
    events = [arrival.incoming for arrival in arrivals if arrival.wanted & bit]
    if repeated:
        events = [event for event in events if (place, event.event_id) not in repeated]
    return events
