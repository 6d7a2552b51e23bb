"""Router, steps 3 and 4: what waits or is dead holds back the later events of its resource; a pause, all of its own.

Invariant: an ordered consumer gets the events of a resource in order, or not yet; and an event that waits or is dead
for a consumer is not handed to it a second time when the bus brings it again. What a pause has parked goes before what
comes later on its resource, whoever the consumer is. Read after the partition's position is locked, so that nothing is
parked, buried, redriven, paused or resumed between the reading and the commit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import queries.holding

from billing.runtime.db import Connection
from billing.services.incoming import Incoming
from billing.services.routing import ANY_CONSUMER, Due, due_of

FOLLOWERS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Holding:
    """Which (consumer, tenant, resource) hold what follows, and which (consumer, event) wait or are dead themselves.

    `parked` are those that a pause parked; `consumers` and `tenants` are paused now.
    """

    resources: frozenset[tuple[str, UUID, str]] = frozenset()
    events: frozenset[tuple[str, UUID]] = frozenset()
    parked: frozenset[tuple[str, UUID, str]] = frozenset()
    consumers: frozenset[str] = frozenset()
    tenants: frozenset[UUID] = frozenset()

    def __bool__(self) -> bool:
        """Whether there is anything at all."""
        return bool(self.resources or self.consumers or self.tenants)

    def is_paused(self, consumer: str, event: Incoming) -> bool:
        """The consumer or the event's tenant is paused."""
        return consumer in self.consumers or event.tenant_id in self.tenants

    def holds(
        self, consumer: str, event: Incoming, *, ordered: bool, under_any: bool = True
    ) -> bool:
        """Something of the event's resource goes first.

        For an ordered consumer whatever waits or is dead, for it or (`under_any`) for all; for another, what a pause
        parked.
        """
        tenant, resource = event.tenant_id, event.resource
        if (consumer, tenant, resource) in (self.resources if ordered else self.parked):
            return True
        return ordered and under_any and (ANY_CONSUMER, tenant, resource) in self.resources

    def has(self, consumer: str, event: Incoming) -> bool:
        """The event itself waits for the consumer, or is dead for it."""
        return (consumer, event.event_id) in self.events


async def read_holding(tx: Connection, events: Collection[Incoming]) -> Holding:
    """What holds these events back."""
    if not events:
        return Holding()
    rows = await queries.holding.list_holding(
        tx,
        event_ids=sorted({event.event_id for event in events}),
        resources=sorted({event.resource for event in events}),
    )
    placed = [
        ((row.consumer, row.tenant_id, row.resource), row)
        for row in rows
        if row.consumer is not None and row.tenant_id is not None and row.resource is not None
    ]
    pauses = [row for row in rows if row.resource is None]
    return Holding(
        frozenset(place for place, _ in placed),
        frozenset((place[0], row.event_id) for place, row in placed if row.event_id is not None),
        frozenset(place for place, row in placed if row.paused),
        frozenset(row.consumer for row in pauses if row.consumer is not None),
        frozenset(row.tenant_id for row in pauses if row.tenant_id is not None),
    )


async def list_followers(tx: Connection, due: Sequence[Due], ordered: Collection[str]) -> list[Due]:
    """What waits behind the heads among `due` and may be tried with them, at most FOLLOWERS_MAX of each.

    Heads are the rows of `ordered` consumers, and those that a pause parked.
    """
    heads = [head for head in due if head.waiting.paused or head.waiting.consumer in ordered]
    if not heads:
        return []
    rows = await queries.holding.list_followers(
        tx,
        consumers=[head.waiting.consumer for head in heads],
        tenant_ids=[head.waiting.tenant_id for head in heads],
        resources=[head.waiting.resource for head in heads],
        resource_versions=[head.waiting.resource_version for head in heads],
        event_ids=[head.waiting.event_id for head in heads],
        replay_ids=[head.waiting.replay_id for head in heads],
        ordered=[head.waiting.consumer in ordered for head in heads],
        per_head=FOLLOWERS_MAX,
    )
    return [due_of(row) for row in rows]
