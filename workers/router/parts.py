"""Router, step 3: a consumer's part of a cycle, and which of its events can be handled now.

Invariant: what stands before an event of its resource, or is paused, is looked up behind the position rows' locks, so
that nothing comes in between; an event that cannot be handled yet is in exactly one of the sets that say why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from billing.runtime.db import Connection
from billing.services.holding import Holding, read_holding
from billing.services.incoming import Incoming
from workers.router.arrivals import Arrival
from workers.router.consumers import Consumer


@dataclass(slots=True)
class Part:
    """A consumer's events of a cycle: those to handle now, and the ids of the others by why not.

    `paused`: the consumer or the tenant is. `parked`: behind what a pause had parked. `held`: by the order of an
    ordered consumer, or by its handler. `known`: wait or are dead already.
    """

    fresh: list[Incoming]
    paused: set[UUID] = field(default_factory=set)
    parked: set[UUID] = field(default_factory=set)
    held: set[UUID] = field(default_factory=set)
    known: set[UUID] = field(default_factory=set)

    @property
    def unhandled(self) -> set[UUID]:
        """All those that are not handled now."""
        return self.paused | self.parked | self.held | self.known


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands before the cycle's events: stored rows and pauses, and unknown events of the cycle itself."""

    stored: Holding
    behind_unknown: frozenset[UUID]

    def part(self, consumer: Consumer, events: list[Incoming]) -> Part:
        """The consumer's events by what is to become of them."""
        if not self.stored and not self.behind_unknown:
            return Part(events)
        part = Part([])
        for event in events:
            self._place(consumer, event, part)
        return part

    def _place(self, consumer: Consumer, event: Incoming, part: Part) -> None:
        name, stored = consumer.name, self.stored
        if stored.has(name, event):
            part.known.add(event.event_id)
        elif stored.is_paused(name, event):
            part.paused.add(event.event_id)
        elif stored.holds(name, event, ordered=False):
            part.parked.add(event.event_id)
        elif consumer.ordered and (
            event.event_id in self.behind_unknown or stored.holds(name, event, ordered=True)
        ):
            part.held.add(event.event_id)
        else:
            part.fresh.append(event)


async def read_standing(tx: Connection, arrivals: Sequence[Arrival]) -> Standing:
    """What stands before these events; read behind the position rows' locks."""
    stored = await read_holding(tx, [arrival.incoming for arrival in arrivals])
    unknown: set[tuple[UUID, str]] = set()
    behind: set[UUID] = set()
    for arrival in arrivals:
        event = arrival.incoming
        if (event.tenant_id, event.resource) in unknown:
            behind.add(event.event_id)
        if arrival.unknown:
            unknown.add((event.tenant_id, event.resource))
    return Standing(stored, frozenset(behind))
