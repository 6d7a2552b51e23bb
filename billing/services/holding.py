"""Router, steps 3 and 4: what waits or is dead holds back the later events of its resource.

Invariant: an ordered consumer gets the events of a resource in order, or not yet; and an event that waits or is dead
for a consumer is not handed to it a second time when the bus brings it again. Read after the partition's position is
locked, so that nothing is parked, buried or redriven between the reading and the commit.
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
    """Which (consumer, tenant, resource) hold what follows, and which (consumer, event) wait or are dead themselves."""

    resources: frozenset[tuple[str, UUID, str]] = frozenset()
    events: frozenset[tuple[str, UUID]] = frozenset()

    def holds(self, consumer: str, event: Incoming, *, under_any: bool = True) -> bool:
        """Something of the event's resource waits or is dead: for the consumer, or (`under_any`) for all."""
        tenant, resource = event.tenant_id, event.resource
        if (consumer, tenant, resource) in self.resources:
            return True
        return under_any and (ANY_CONSUMER, tenant, resource) in self.resources

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
    return Holding(
        frozenset((row.consumer, row.tenant_id, row.resource) for row in rows),
        frozenset((row.consumer, row.event_id) for row in rows if row.event_id is not None),
    )


async def list_followers(tx: Connection, heads: Sequence[Due]) -> list[Due]:
    """What waits behind the heads and may be tried with them, at most FOLLOWERS_MAX of each."""
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
        per_head=FOLLOWERS_MAX,
    )
    return [due_of(row) for row in rows]
