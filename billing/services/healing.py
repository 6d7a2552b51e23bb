"""Publish path, beside it: what the bus lost is found by what the consumers lack, and published again.

Invariant: an event of the log that a consumer wants is in its inbox, waits, is dead, or is in the outbox, or will be
armed again under a bus id never used before. `healed_until` moves past a slice only in a check that arms nothing, by
compare-and-set, so that a slice is checked until nothing is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.healing

from billing.runtime import hints
from billing.runtime.db import Connection, Database
from billing.services.consumers import Wanted
from billing.services.events import resource_hash

EVERY_SUBJECT: Final = "*"


@dataclass(frozen=True, slots=True)
class Slice:
    """Events after `after` up to `last`; `version` is that of the healing row when the slice was found."""

    after: UUID
    last: UUID
    version: int


@dataclass(frozen=True, slots=True)
class Healed:
    """What a check did: how many events it armed, or that the slice is done for good."""

    armed: int
    done: bool


async def find_slice(database: Database, *, before: datetime, most: int) -> Slice | None:
    """The next slice that is ready to be checked: older than `before`, and none of it queued. None: nothing is."""
    bound = UUID(int=int(before.timestamp() * 1000) << 80)
    async with database.connection() as connection:
        state = await queries.healing.get_healing(connection)
        assert state is not None, "the migration makes the row"
        found = await queries.healing.find_slice(
            connection, after=state.healed_until, before=bound, most=most
        )
    if found is None or found.last is None or found.queued:
        return None
    return Slice(state.healed_until, found.last, state.version)


async def heal(database: Database, checked: Slice, wanted: Wanted) -> Healed:
    """Arms what is lacking in a slice, in order per resource; when nothing is, the slice is done."""
    pairs = [
        (consumer, subject)
        for consumer, subjects in wanted.items()
        for subject in ([EVERY_SUBJECT] if subjects is None else sorted(subjects))
    ]
    consumers = [consumer for consumer, _ in pairs]
    subjects = [subject for _, subject in pairs]
    async with database.transaction() as tx:
        lacking = await queries.healing.list_lacking(
            tx, after=checked.after, last=checked.last, consumers=consumers, subjects=subjects
        )
        if not lacking:
            moved = await queries.healing.move_healed(
                tx, healed_until=checked.last, version=checked.version
            )
            return Healed(0, bool(moved))
        lacking = sorted(
            lacking, key=lambda row: (row.tenant_id, row.resource, row.resource_version, row.id)
        )
        armed = await queries.healing.arm_healing(
            tx,
            event_ids=[row.id for row in lacking],
            tenant_ids=[row.tenant_id for row in lacking],
            subjects=[row.subject for row in lacking],
            resources=[row.resource for row in lacking],
            hashes=[resource_hash(row.tenant_id, row.resource) for row in lacking],
            consumers=consumers,
            wanted_subjects=subjects,
        )
        hints.wake(hints.OUTBOX)
    return Healed(armed, False)


async def heal_again(tx: Connection, event_id: UUID) -> None:
    """The event and those after it are checked again."""
    await queries.healing.heal_again(tx, before=UUID(int=event_id.int - 1))
