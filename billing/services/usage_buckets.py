"""Usage path, step 2, for revisions: the hour buckets that they leave and come into are computed anew from the records.

Invariant: a bucket is held before the records are read, in a later statement: so a fold that adds to it has either
committed, and is read, or adds to what was computed. All of a fold's buckets are held in one sorted go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import queries.usage_fold_revisions
from queries.usage_fold_revisions import ListReadyRevisionsRow, ListTouchedBucketsRow

from billing.runtime.db import Connection
from billing.services.quantities import PeriodKey


@dataclass(frozen=True, slots=True)
class TouchedBuckets:
    """The buckets that a fold will change, the revisions that have their turn, and which periods these leave.

    True stands by a period of a level: what it gives back, all later ones do.
    """

    ready: Sequence[ListReadyRevisionsRow]
    buckets: Sequence[ListTouchedBucketsRow]
    earlier_owners: Mapping[PeriodKey, bool]

    async def hold_buckets(self, tx: Connection) -> None:
        """Takes them all, those that plain records come into included."""
        await queries.usage_fold_revisions.hold_usage_buckets(
            tx,
            tenant_ids=[row.tenant_id for row in self.buckets],
            item_ids=[row.item_id for row in self.buckets],
            period_starts=[row.period_start for row in self.buckets],
            hours=[row.hour for row in self.buckets],
            group_keys=[row.group_key for row in self.buckets],
        )

    async def recompute_buckets(self, tx: Connection) -> None:
        """Computes those that revisions touch, once the revisions have their owners."""
        revised = [row for row in self.buckets if row.is_revised]
        await queries.usage_fold_revisions.recompute_usage_buckets(
            tx,
            tenant_ids=[row.tenant_id for row in revised],
            item_ids=[row.item_id for row in revised],
            period_starts=[row.period_start for row in revised],
            hours=[row.hour for row in revised],
            group_keys=[row.group_key for row in revised],
        )


async def touched_by(
    tx: Connection, tenant_ids: Sequence[UUID], batch_ids: Sequence[UUID]
) -> TouchedBuckets:
    """What the unfolded records of these batches will touch, revisions among them; holds the records."""
    await queries.usage_fold_revisions.lock_usage_batches(
        tx, tenant_ids=tenant_ids, batch_ids=batch_ids
    )
    # First: of those that have their turn now, what they leave is complete in what is read next.
    ready = await queries.usage_fold_revisions.list_ready_revisions(
        tx, tenant_ids=tenant_ids, batch_ids=batch_ids
    )
    earlier = await queries.usage_fold_revisions.list_earlier_owners(
        tx, tenant_ids=tenant_ids, batch_ids=batch_ids
    )
    buckets = await queries.usage_fold_revisions.list_touched_buckets(
        tx, tenant_ids=tenant_ids, batch_ids=batch_ids
    )
    return TouchedBuckets(
        ready,
        buckets,
        {PeriodKey(row.tenant_id, row.item_id, row.period_start): row.is_level for row in earlier},
    )
