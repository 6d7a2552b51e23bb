"""Router, step 3, the slow way: a consumer's events in savepoints, so that one at fault fails alone.

Invariant: after it, each event was handled, waits, or is known with its error; a fault of the database itself is let
through, since it says nothing about the event.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from billing.runtime.db import Connection
from billing.runtime.faults import Fault, fault_of
from billing.runtime.savepoints import savepoint
from billing.services import routing
from billing.services.events import consume_once
from billing.services.incoming import Incoming
from workers.router.consumers import Consumer

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Isolated:
    """What became of one consumer's events; those in none of these were handled, now or before.

    `held` were not tried: of an ordered consumer, behind one of their resource that failed or waits.
    """

    waiting: set[UUID] = field(default_factory=set)
    failed: dict[UUID, str] = field(default_factory=dict)
    held: set[UUID] = field(default_factory=set)
    blocked: set[tuple[UUID, str]] = field(default_factory=set)

    def block(self, event: Incoming) -> None:
        """What follows the event on its resource is held."""
        self.blocked.add((event.tenant_id, event.resource))


class FollowersHandled(Exception):
    """An ordered consumer lets an event wait, but was given a later one of its resource with it: undo, and apart."""


async def handle_apart(
    tx: Connection, consumer: Consumer, events: Sequence[Incoming], now: datetime
) -> Isolated:
    """Handles the events in order, in ever smaller parts around those that fail, down to one by one.

    Halving finds one failing event among 1,000 in 20 tries, where one by one from the start needs 1,000.
    """
    isolated = Isolated()
    await _handle(tx, consumer, events, now, isolated)
    return isolated


async def _handle(
    tx: Connection,
    consumer: Consumer,
    events: Sequence[Incoming],
    now: datetime,
    isolated: Isolated,
) -> None:
    if consumer.ordered and isolated.blocked:
        behind = [event for event in events if _place(event) in isolated.blocked]
        isolated.held.update(event.event_id for event in behind)
        events = [event for event in events if _place(event) not in isolated.blocked]
    if not events:
        return
    try:
        async with savepoint(tx):
            waiting = await _once(tx, consumer, events, now)
            refuse_overtaking(consumer, events, waiting)
    except Exception as error:
        if fault_of(error) is Fault.OUTAGE:
            raise
        if len(events) > 1:
            middle = len(events) // 2
            await _handle(tx, consumer, events[:middle], now, isolated)
            await _handle(tx, consumer, events[middle:], now, isolated)
            return
        event = events[0]
        log.exception("%s could not handle %s (%s)", consumer.name, event.event_id, event.subject)
        isolated.failed[event.event_id] = describe(error)
        isolated.block(event)
        return
    isolated.waiting |= waiting
    for event in events:
        if event.event_id in waiting:
            isolated.block(event)


def refuse_overtaking(
    consumer: Consumer, events: Sequence[Incoming], waiting: Collection[UUID]
) -> None:
    """Raises FollowersHandled when an ordered consumer's events went past one of their resource that waits."""
    if not consumer.ordered or not waiting:
        return
    blocked: set[tuple[UUID, str]] = set()
    for event in events:
        if event.event_id in waiting:
            blocked.add(_place(event))
        elif _place(event) in blocked:
            raise FollowersHandled(event.resource)


def _place(event: Incoming) -> tuple[UUID, str]:
    return event.tenant_id, event.resource


async def _once(
    tx: Connection, consumer: Consumer, events: Sequence[Incoming], now: datetime
) -> set[UUID]:
    fresh = await consume_once(
        tx, consumer.name, [(event.tenant_id, event.event_id) for event in events]
    )
    if not fresh:
        return set()
    waiting = set(
        await consumer.handle(tx, [event for event in events if event.event_id in fresh], now)
    )
    if waiting:
        await routing.unmark(tx, consumer.name, waiting)
    return waiting


def describe(error: BaseException) -> str:
    """An error for the row that waits: what it was and what it said."""
    return f"{type(error).__name__}: {error}"
