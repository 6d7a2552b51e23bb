"""Usage path, step 1: backfill jobs, under which usage older than the backdating limit is recorded.

Invariant: what was recorded under a job is known as a whole, and reverting the job voids all of it: a job that is being
reverted takes no further records, by its row's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import queries.usage_backfills
from queries.models import UsageBackfill

from billing.domain.errors import AlreadyExists, NotFound, Precondition
from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services.business_time import business_time
from billing.services.usage_revisions import REVISED_AT_ONCE_MAX, Author, Change, revise_as_they_are


class BackfillStatus(StrEnum):
    """Whether a job takes records; the names are those of the proto's BackfillStatus."""

    OPEN = "open"
    REVERTING = "reverting"
    REVERTED = "reverted"


class BackfillNotFound(NotFound):
    """There is no such backfill job; create it with CreateBackfill."""

    reason = "BACKFILL_NOT_FOUND"


class BackfillClosed(Precondition):
    """The backfill job was reverted and takes no records; make another."""

    reason = "BACKFILL_CLOSED"


@dataclass(frozen=True, slots=True)
class Backfill:
    """A job and how many records came under it."""

    row: UsageBackfill
    records: int


async def create_backfill(
    tx: Connection, tenant_id: UUID, name: str, note: str, *, now: datetime
) -> Backfill:
    """A new job. Raises AlreadyExists for a name that another has."""
    row = await queries.usage_backfills.insert_backfill(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        name=name,
        note=note,
        now=await business_time(tx, tenant_id, now),
    )
    if row is None:
        raise AlreadyExists(
            f"A backfill with the name {name!r} exists.",
            metadata={"kind": "backfill", "key": name},
        )
    return Backfill(row, 0)


async def get_backfill(
    tx: Connection, tenant_id: UUID, *, backfill_id: UUID | None, name: str = ""
) -> Backfill:
    """The job by id, or else by name. Raises BackfillNotFound."""
    if backfill_id is not None:
        row = await queries.usage_backfills.get_backfill(tx, tenant_id=tenant_id, id=backfill_id)
    else:
        row = await queries.usage_backfills.get_backfill_by_name(tx, tenant_id=tenant_id, name=name)
    if row is None:
        raise _not_found(backfill_id, name)
    return (await _counted(tx, tenant_id, [row]))[0]


async def list_backfills(
    tx: Connection, tenant_id: UUID, before: UUID | None, *, limit: int
) -> Sequence[Backfill]:
    """Newest first."""
    rows = await queries.usage_backfills.list_backfills(
        tx, tenant_id=tenant_id, before=before, page_max=limit
    )
    return await _counted(tx, tenant_id, rows)


async def hold_open(tx: Connection, tenant_id: UUID, backfill_id: UUID) -> None:
    """Makes sure that the job takes records until this transaction ends. Raises BackfillNotFound, BackfillClosed."""
    status = await queries.usage_backfills.share_backfill(tx, tenant_id=tenant_id, id=backfill_id)
    if status is None:
        raise _not_found(backfill_id)
    if status != BackfillStatus.OPEN:
        raise BackfillClosed(metadata={"backfill": encode(Prefix.BACKFILL, backfill_id)})


async def note_batch(
    tx: Connection, tenant_id: UUID, backfill_id: UUID, batch_id: UUID, records: int
) -> None:
    """The batch came under the job."""
    await queries.usage_backfills.add_backfill_batch(
        tx, tenant_id=tenant_id, backfill_id=backfill_id, batch_id=batch_id, records=records
    )


async def revert_backfill(
    tx: Connection, tenant_id: UUID, backfill_id: UUID, author: Author, *, now: datetime
) -> tuple[Backfill, int]:
    """Voids the next 20,000 records of the job; answers the job and how many were voided now.

    The job is `reverted` when none is left, else `reverting`: call again. Reverting it once more changes nothing.
    Raises BackfillNotFound.
    """
    row = await queries.usage_backfills.lock_backfill(tx, tenant_id=tenant_id, id=backfill_id)
    if row is None:
        raise _not_found(backfill_id)
    roots = await queries.usage_backfills.list_backfill_roots(
        tx, tenant_id=tenant_id, backfill_id=backfill_id, most=REVISED_AT_ONCE_MAX
    )
    voided = await revise_as_they_are(
        tx, tenant_id, roots, author, now=now, change=Change(void=True)
    )
    done = len(roots) < REVISED_AT_ONCE_MAX
    status = BackfillStatus.REVERTED if done else BackfillStatus.REVERTING
    if row.status not in (status, BackfillStatus.REVERTED):
        today = await business_time(tx, tenant_id, now)
        moved = await queries.usage_backfills.set_backfill_status(
            tx, tenant_id=tenant_id, id=backfill_id, status=status, now=today
        )
        row = moved or row
    return (await _counted(tx, tenant_id, [row]))[0], voided


async def _counted(
    tx: Connection, tenant_id: UUID, rows: Sequence[UsageBackfill]
) -> list[Backfill]:
    counts = await queries.usage_backfills.count_backfill_records(
        tx, tenant_id=tenant_id, backfill_ids=[row.id for row in rows]
    )
    known = {count.backfill_id: count.records for count in counts}
    return [Backfill(row, known.get(row.id, 0)) for row in rows]


def _not_found(backfill_id: UUID | None, name: str = "") -> BackfillNotFound:
    named = encode(Prefix.BACKFILL, backfill_id) if backfill_id else name
    return BackfillNotFound(metadata={"backfill": named})
