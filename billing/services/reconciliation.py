"""Usage path, beside it: do the buckets say what the records say?

Invariant: every usage period is compared once per round, in one statement, so in one snapshot; what differs is kept
until it is compared again and agrees. A slice is bounded in periods and records, so the house may be as large as it
likes. The figure is 0 whenever no fold has lost or doubled anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import queries.reconciliation
from queries.reconciliation import WalkUsagePeriodsRow

from billing.runtime.db import Connection

PERIODS_PER_SLICE_MAX: Final = 500
# A single period may have more: then it is a slice of its own.
RECORDS_PER_SLICE_MAX: Final = 200_000
_START: Final = (UUID(int=0), UUID(int=0), datetime(1970, 1, 1, tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """How many hour buckets differ from the records, and when the last full round ended; None before the first."""

    differing: int
    finished_at: datetime | None


async def reconciliation(tx: Connection) -> Reconciliation:
    """The figure as the last comparisons left it: of one tenant under its role, of the whole house for a worker."""
    finished_at = await queries.reconciliation.get_walk_end(tx)
    differing = await queries.reconciliation.sum_differences(tx)
    return Reconciliation(differing or 0, finished_at)


async def reconcile_slice(
    tx: Connection, *, now: datetime, periods_max: int = PERIODS_PER_SLICE_MAX
) -> int:
    """Compares the next slice of the round, and begins anew behind the last; answers how many usage periods it held.

    Nothing where another process has the walk in hand. For workers.
    """
    walk = await queries.reconciliation.take_walk(tx)
    if walk is None:
        return 0
    after = (walk.tenant_id, walk.item_id, walk.period_start)
    rows, ended = await _next(tx, after, periods_max)
    found = await _compare(tx, rows) if rows else []
    tenants = [row.tenant_id for row in rows]
    items = [row.item_id for row in rows]
    starts = [row.period_start for row in rows]
    await queries.reconciliation.forget_differences(
        tx, tenant_ids=tenants, item_ids=items, period_starts=starts
    )
    await queries.reconciliation.note_differences(
        tx,
        tenant_ids=[row.tenant_id for row in found],
        item_ids=[row.item_id for row in found],
        period_starts=[row.period_start for row in found],
        buckets=[row.buckets for row in found],
        now=now,
    )
    last = _START if ended else (tenants[-1], items[-1], starts[-1])
    await queries.reconciliation.move_walk(
        tx,
        tenant_id=last[0],
        item_id=last[1],
        period_start=last[2],
        finished_at=now if ended else None,
    )
    return len(rows)


async def unreconciled_buckets(tx: Connection, tenant_id: UUID | None) -> int:
    """How many hour buckets differ now, for one tenant or (None, as a worker) the whole house; reads all records."""
    after, differing = _START, 0
    if tenant_id is not None:
        after = (UUID(int=tenant_id.int - 1), UUID(int=2**128 - 1), _START[2])
    ended = False
    while not ended:
        rows, ended = await _next(tx, after, PERIODS_PER_SLICE_MAX)
        own = [row for row in rows if tenant_id in (None, row.tenant_id)]
        differing += sum(row.buckets for row in await _compare(tx, own))
        ended = ended or len(own) < len(rows)
        after = after if ended else (rows[-1].tenant_id, rows[-1].item_id, rows[-1].period_start)
    return differing


async def _next(
    tx: Connection, after: tuple[UUID, UUID, datetime], periods_max: int
) -> tuple[Sequence[WalkUsagePeriodsRow], bool]:
    """The next slice, and whether it is the last of the round."""
    rows = await queries.reconciliation.walk_usage_periods(
        tx,
        after_tenant_id=after[0],
        after_item_id=after[1],
        after_period_start=after[2],
        periods_max=periods_max,
    )
    records, taken = 0, 0
    for row in rows:
        records += row.records
        if taken and records > RECORDS_PER_SLICE_MAX:
            break
        taken += 1
    return rows[:taken], taken == len(rows) < periods_max


async def _compare(
    tx: Connection, rows: Sequence[WalkUsagePeriodsRow]
) -> Sequence[queries.reconciliation.ListDifferencesRow]:
    return await queries.reconciliation.list_differences(
        tx,
        tenant_ids=[row.tenant_id for row in rows],
        item_ids=[row.item_id for row in rows],
        period_starts=[row.period_start for row in rows],
        meter_ids=[row.meter_id for row in rows],
    )
