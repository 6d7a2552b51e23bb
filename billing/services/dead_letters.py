"""Publish path and router, beside them: what becomes of an event that was given up.

Invariant: a dead letter leaves its table only by an operator's order or a replay's, which the audit has; under the
position row of its partition, so that no router acts on what is changed meanwhile. Redriven, it has all its attempts
again; discarded, it counts as handled, so nothing brings it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import queries.dead_letters
from queries.dead_letters import GetDeadEventRow as DeadLetter
from queries.dead_letters import ListDeadEventsRow as ListedLetter

from billing.domain.errors import NotFound
from billing.domain.ids import Prefix, encode
from billing.runtime import hints
from billing.runtime.db import Connection
from billing.services import healing
from billing.services.consumers import Wanted

__all__ = [
    "DeadLetter",
    "DeadLetterNotFound",
    "ListedLetter",
    "discard",
    "get_dead",
    "list_dead",
    "redrive",
]


class DeadLetterNotFound(NotFound):
    """There is no such dead letter; it was redriven or discarded, or never was."""

    reason = "DEAD_LETTER_NOT_FOUND"


async def list_dead(
    connection: Connection, tenant_id: UUID | None, *, before: UUID | None, limit: int
) -> Sequence[ListedLetter]:
    """The latest dead letters of a tenant or of all, older than `before`."""
    return await queries.dead_letters.list_dead_events(
        connection, before=before, tenant_id=tenant_id, most=limit
    )


async def get_dead(connection: Connection, dead_id: UUID, tenant_id: UUID | None) -> DeadLetter:
    """One dead letter. Raises DeadLetterNotFound."""
    found = await queries.dead_letters.get_dead_event(connection, id=dead_id, tenant_id=tenant_id)
    if found is None:
        raise DeadLetterNotFound(metadata={"dead_letter": encode(Prefix.DEAD_LETTER, dead_id)})
    return found


async def redrive(
    tx: Connection, dead_id: UUID, tenant_id: UUID | None, *, now: datetime
) -> DeadLetter:
    """Tries it again: at its old position of the outbox, or as the head of what waits.

    `tenant_id` bounds it to one tenant's dead letters. Raises DeadLetterNotFound.
    """
    dead = await _locked(tx, dead_id, tenant_id)
    if dead.consumer:
        await queries.dead_letters.redrive_to_waiting(tx, id=dead_id, now=now)
    else:
        await queries.dead_letters.redrive_to_outbox(tx, id=dead_id)
        await healing.heal_again(tx, dead.event_id)
        hints.wake(hints.OUTBOX)
    return dead


async def discard(
    tx: Connection, dead_id: UUID, tenant_id: UUID | None, wanted: Wanted
) -> DeadLetter:
    """Gives it up: handled by its consumer, or by all that want it when it was never published.

    Raises DeadLetterNotFound.
    """
    dead = await _locked(tx, dead_id, tenant_id)
    if dead.consumer:
        await queries.dead_letters.drop_router_dead_letter(tx, id=dead_id)
        consumers = [dead.consumer]
    else:
        await queries.dead_letters.drop_outbox_dead_letter(tx, id=dead_id)
        consumers = [
            name
            for name, subjects in wanted.items()
            if subjects is None or dead.subject in subjects
        ]
    await queries.dead_letters.mark_handled(
        tx, event_id=dead.event_id, tenant_id=dead.tenant_id, consumers=consumers
    )
    return dead


async def _locked(tx: Connection, dead_id: UUID, tenant_id: UUID | None) -> DeadLetter:
    """The dead letter, under the lock of its partition; read again, since a twin may have been first."""
    found = await get_dead(tx, dead_id, tenant_id)
    await queries.dead_letters.lock_partition(tx, partition=found.partition)
    return await get_dead(tx, dead_id, tenant_id)
