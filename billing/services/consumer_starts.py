"""Router and sweeper: from which event on each consumer should have what it wants.

Invariant: a consumer wants an event when it wants the subject and the event's id is not below the consumer's first one.
Router, healing, replays and test clocks go by this one predicate, so a new consumer gets no history, and nothing waits
for it to. Whoever first runs a release with a new consumer registers it, the sweeper or a router.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from uuid import UUID

import queries.consumers

from billing.runtime.db import Database

BEGINNING = UUID(int=0)

# The least id that is a consumer's own, by its name.
Starts = Mapping[str, UUID]


async def register(database: Database, names: Collection[str], *, now: datetime) -> Starts:
    """Registers consumers that are new here, and tells where each of all that there are begins."""
    first = UUID(int=int(now.timestamp() * 1000) << 80)
    async with database.transaction() as tx:
        await queries.consumers.register_consumers(tx, names=sorted(names), first_event_id=first)
        rows = await queries.consumers.list_consumer_starts(tx)
    return {row.name: row.first_event_id for row in rows}


async def newer_than(database: Database, names: Collection[str]) -> list[str]:
    """Consumers that were added later and are none of these: those of a newer release."""
    async with database.connection() as connection:
        rows = await queries.consumers.list_consumer_starts(connection)
    return [row.name for row in rows if row.first_event_id != BEGINNING and row.name not in names]
