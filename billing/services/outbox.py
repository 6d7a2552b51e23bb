"""Publish path, steps 2 and 4: reading what is still to be published, and settling what became of it.

Invariant: a row leaves the outbox only when the bus has acknowledged it, or into the dead letters after its last
attempt; and every such statement names the term of the lease that the row was read under.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Final, NamedTuple
from uuid import UUID

import queries.outbox
from queries.outbox import ListEnvelopesRow
from queries.outbox import ListPendingRow as Pending

from billing.runtime.db import Database
from billing.services.leases import Lease

__all__ = [
    "NOBODY",
    "Claim",
    "Pending",
    "Priority",
    "Publication",
    "Refusal",
    "Routed",
    "delete_published",
    "load_envelopes",
    "read_pending",
    "read_routed",
    "record_refusals",
]

NOBODY: Final = UUID(int=0)  # comes before every tenant
_ANY_SIZE: Final = 2**31 - 1
ERROR_LENGTH_MAX: Final = 500


class Priority(IntEnum):
    """What a row of the outbox is: an event's own publication, or one more by a replay or a healing."""

    LIVE = 0
    REPLAY = 1


@dataclass(frozen=True, slots=True)
class Claim:
    """What to read of a shard's queue: from behind a tenant on, at most so many rows of each tenant, and so many in
    all."""

    shard: int
    priority: Priority
    rows_max: int
    tenant_rows_max: int
    after_tenant: UUID = NOBODY


@dataclass(frozen=True, slots=True)
class Routed:
    """How far a partition's router has come, and in which stream."""

    identity: str
    sequence: int


class Publication(NamedTuple):
    """A row of the outbox with its envelope; None when the log does not have the event."""

    row: Pending
    occurred_at: datetime | None
    envelope: bytes | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that the bus refused for its own sake, why, and when to try again."""

    row: Pending
    error: str
    next_attempt_at: datetime


async def read_pending(
    database: Database,
    claims: Sequence[Claim],
    *,
    in_flight: Collection[int],
    now: datetime,
) -> list[Pending]:
    """The head of each claimed queue, in order per resource and fair across tenants.

    `in_flight` are the positions of rows that are being published or deleted just now. There is no lock: whoever
    calls owns the shards. A later call sees every row that an earlier one saw and that was not deleted.
    """
    async with database.connection() as connection:
        return await queries.outbox.list_pending(
            connection,
            shards=[claim.shard for claim in claims],
            priorities=[claim.priority for claim in claims],
            after_tenants=[claim.after_tenant for claim in claims],
            per_tenant=[claim.tenant_rows_max for claim in claims],
            per_queue=[claim.rows_max for claim in claims],
            in_flight=list(in_flight),
            now=now,
        )


async def read_routed(database: Database, shards: Collection[int]) -> dict[int, Routed]:
    """How far each of these shards' partitions is routed; only those that a living router owns."""
    async with database.connection() as connection:
        rows = await queries.outbox.list_routed(connection, partitions=sorted(shards))
    return {row.partition: Routed(row.stream_identity, row.last_sequence) for row in rows}


async def load_envelopes(
    database: Database, rows: Sequence[Pending], *, bytes_max: int
) -> list[Publication]:
    """The rows with their envelopes: as many of the first as fit into `bytes_max`, at least one."""
    if not rows:
        return []
    found = await _envelopes(database, [row.event_id for row in rows], bytes_max // len(rows))
    taken: list[tuple[Pending, ListEnvelopesRow | None]] = []
    size = 0
    for row in rows:
        logged = found.get(row.event_id)
        size += logged.bytes_ if logged is not None else 0
        if taken and size > bytes_max:
            break
        taken.append((row, logged))
    large = [logged.id for _, logged in taken if logged is not None and logged.envelope is None]
    if large:
        found |= await _envelopes(database, large, _ANY_SIZE)
        taken = [(row, found.get(row.event_id)) for row, _ in taken]
    return [
        Publication(row, None, None)
        if logged is None
        else Publication(row, logged.occurred_at, logged.envelope)
        for row, logged in taken
    ]


async def _envelopes(
    database: Database, ids: Sequence[UUID], small_bytes: int
) -> dict[UUID, ListEnvelopesRow]:
    async with database.connection() as connection:
        rows = await queries.outbox.list_envelopes(
            connection, ids=ids, first=min(ids), last=max(ids), small_bytes=small_bytes
        )
    return {row.id: row for row in rows}


async def delete_published(
    database: Database, rows: Sequence[Pending], leases: Sequence[Lease]
) -> int:
    """Deletes what is on the bus, where its shard's lease still has the term; how many rows that were."""
    purposes: dict[str, list[UUID]] = {}
    for row in rows:
        purposes.setdefault(row.purpose, []).append(row.event_id)
    deleted = 0
    async with database.connection() as connection:
        for purpose, ids in purposes.items():
            deleted += await queries.outbox.delete_published(
                connection,
                event_ids=ids,
                purpose=purpose,
                shards=[lease.shard for lease in leases],
                terms=[lease.term for lease in leases],
            )
    return deleted


async def record_refusals(
    database: Database,
    refusals: Sequence[Refusal],
    lease: Lease,
    *,
    attempts_max: int,
    now: datetime,
) -> int:
    """Counts an attempt of each; those that have had their last move to the dead letters. How many moved."""
    ids = [refusal.row.event_id for refusal in refusals]
    purposes = [refusal.row.purpose for refusal in refusals]
    errors = [refusal.error[:ERROR_LENGTH_MAX] for refusal in refusals]
    async with database.transaction() as tx:
        # The dead first: the next statement raises the counts that this one looks at.
        moved = await queries.outbox.move_to_dead_letters(
            tx,
            event_ids=ids,
            purposes=purposes,
            last_errors=errors,
            attempts_max=attempts_max,
            term=lease.term,
            now=now,
        )
        await queries.outbox.postpone_refused(
            tx,
            event_ids=ids,
            purposes=purposes,
            last_errors=errors,
            attempts_max=attempts_max,
            term=lease.term,
            next_attempt_ats=[refusal.next_attempt_at for refusal in refusals],
        )
    return moved
