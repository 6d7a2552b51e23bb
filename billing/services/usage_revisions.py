"""Usage path, beside step 1: further revisions of records: amended, voided, or to be given an owner anew.

Invariant: the original is kept, and so is each revision; its number is drawn under the root's row lock. A revision is a
record on its way like any other: its own usage.reported leads it through the fold; until then the one before counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.usage_revisions

from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.business_time import business_time
from billing.services.usage_batch import BATCH_RECORDS_MAX
from billing.services.usage_reported import usage_reported

# Of one record, by amendments: enough for every honest correction, and what the fold reads for each stays small.
REVISIONS_MAX: Final = 100
# Moved, assigned or voided in one transaction; whoever finds more says so and goes on in a further one.
REVISED_AT_ONCE_MAX: Final = 20_000


@dataclass(frozen=True, slots=True)
class Author:
    """For what cause revisions are made, and the note that they keep; and whether old records may be changed too."""

    cause: Cause
    note: str = ""
    allow_backfill: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What a revision does otherwise than the one before: it counts no more, or names a subscription."""

    void: bool = False
    subscription_id: UUID | None = None


LIKE_BEFORE: Final = Change()


async def revise_as_they_are(
    tx: Connection,
    tenant_id: UUID,
    roots: Sequence[str],
    author: Author,
    *,
    now: datetime,
    change: Change = LIKE_BEFORE,
) -> int:
    """A further revision of each record like its latest but for `change`; returns how many were made.

    In batches, with an event each. A record that is voided already gets none.
    """
    if not roots:
        return 0
    # A statement of its own: the next one sees the revisions of whoever held a root before.
    locked = await queries.usage_revisions.lock_usage_roots(
        tx, tenant_id=tenant_id, idempotency_keys=roots
    )
    today = await business_time(tx, tenant_id, now)
    batch_ids = [new_id(now) for _ in range(0, len(locked), BATCH_RECORDS_MAX)]
    rows = await queries.usage_revisions.copy_usage_revisions(
        tx,
        tenant_id=tenant_id,
        root_keys=locked,
        idempotency_keys=[revision_key(now) for _ in locked],
        batch_ids=[batch_ids[n // BATCH_RECORDS_MAX] for n in range(len(locked))],
        void=change.void,
        subscription_id=change.subscription_id,
        accepted_at=today,
        note=author.note,
    )
    owners: dict[UUID, list[tuple[UUID, UUID]]] = {}
    for row in rows:
        owners.setdefault(row.batch_id, []).append((row.customer_id, row.meter_id))
    told = [
        usage_reported(tenant_id, batch_id, owners[batch_id], author.cause, today)
        for batch_id in batch_ids
        if batch_id in owners
    ]
    await events.emit(tx, told, now=now)
    return len(rows)


def revision_key(now: datetime) -> str:
    """The key of a revision's own row: nobody's record has it, and nobody is told it."""
    return f"revision-{new_id(now)}"
