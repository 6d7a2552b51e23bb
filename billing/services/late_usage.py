"""Invoice path, step 1: usage that comes late, where no later invoice will exist.

Invariant: usage of an ended subscription that comes after its final invoice waits until the backdating limit has passed
since the end, and is billed by one adjustment then; what comes later still (backfilled, amended) by another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import queries.late_usage
from queries.models import Subscription

from billing.domain.invoice import InvoiceKind
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services.actor import Cause
from billing.services.cycles import Closed, close_apart
from billing.services.subscription_hold import free_instant


async def bill_late_usage(
    tx: Connection,
    rows: Sequence[Subscription],
    today: Mapping[UUID, datetime],
    causes: Mapping[UUID, Cause],
    *,
    now: datetime,
) -> None:
    """A closed cycle of kind adjustment for each ended subscription that has usage to adjust; the caller holds them.

    Its boundary is the instant that fell due, or the next that has no final adjustment yet.
    """
    if not rows:
        return
    marked = await queries.late_usage.list_to_adjust(
        tx, tenant_ids=[row.tenant_id for row in rows], ids=[row.id for row in rows]
    )
    wanted = set(marked)
    for row in rows:
        if row.id in wanted and row.next_due_at is not None:
            at = await free_instant(tx, row, row.next_due_at, InvoiceKind.ADJUSTMENT)
            closed = Closed(row, new_id(now), InvoiceKind.ADJUSTMENT, at, None)
            await close_apart(tx, closed, today, causes[row.id], now=now)
    await queries.late_usage.rest(
        tx, tenant_ids=[row.tenant_id for row in rows], ids=[row.id for row in rows]
    )


async def wake_late_usage(tx: Connection, *, batch_max: int, tenant_id: UUID | None = None) -> int:
    """Makes ended subscriptions due again that have usage to adjust and wait for nothing; returns how many."""
    return await queries.late_usage.wake(tx, tenant_id=tenant_id, batch_max=batch_max)
