"""Replay path, step 3, FORCE of the consumer usage: what events touched is computed anew from the records.

Invariant: computing anew from the same records gives the same buckets, so a repeated run changes nothing; it adds
nothing, so usage that comes in meanwhile is counted once. An event that was never handled is handled first, as live.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import queries.usage_fold_revisions
import queries.usage_recompute
from queries.usage_recompute import ListBucketsOfBatchesRow

from billing.domain.ids import Prefix, decode
from billing.runtime.db import Connection
from billing.services import routing, usage_fold
from billing.services.events import consume_once
from billing.services.incoming import Incoming
from billing.services.quantities import PeriodKey

CONSUMER = "usage"

_Key = tuple[UUID, UUID, datetime, datetime, str]
_Content = tuple[int, Decimal, Decimal]


async def recompute(
    tx: Connection, incoming: Sequence[Incoming], now: datetime, *, always_rate: bool
) -> None:
    """Computes the hour buckets anew that these events' records are in.

    A period whose buckets changed is rated again, which tells a new fact; `always_rate` has all of them rated again.
    """
    await _handle_live(tx, incoming, now)
    tenant_ids = [event.tenant_id for event in incoming]
    batch_ids = [decode(Prefix.USAGE_BATCH, event.resource) for event in incoming]
    periods = await queries.usage_recompute.hold_periods_of_batches(
        tx, tenant_ids=tenant_ids, batch_ids=batch_ids
    )
    before = await queries.usage_recompute.list_buckets_of_batches(
        tx, tenant_ids=tenant_ids, batch_ids=batch_ids
    )
    await _recompute_buckets(tx, before)
    after = await queries.usage_recompute.list_buckets_of_batches(
        tx, tenant_ids=tenant_ids, batch_ids=batch_ids
    )
    changed = _changed(before, after)
    due = [
        key
        for row in periods
        if (key := PeriodKey(row.tenant_id, row.item_id, row.period_start)) in changed
        or always_rate
    ]
    if due:
        await queries.usage_recompute.mark_due(
            tx,
            tenant_ids=[key.tenant_id for key in due],
            item_ids=[key.item_id for key in due],
            period_starts=[key.period_start for key in due],
            event_id=incoming[-1].event_id,
            correlation_id=incoming[-1].correlation_id,
        )


async def _handle_live(tx: Connection, incoming: Sequence[Incoming], now: datetime) -> None:
    """As the router does; what has to wait stays unmarked, so that healing brings it back."""
    fresh = await consume_once(
        tx, CONSUMER, [(event.tenant_id, event.event_id) for event in incoming]
    )
    never_handled = [event for event in incoming if event.event_id in fresh]
    if never_handled:
        waiting = await usage_fold.fold(tx, never_handled, now)
        if waiting:
            await routing.unmark(tx, CONSUMER, waiting)


async def _recompute_buckets(tx: Connection, buckets: Sequence[ListBucketsOfBatchesRow]) -> None:
    """Held first, so that a fold that adds to one has committed, and is read, or adds to what was computed."""
    tenant_ids = [row.tenant_id for row in buckets]
    item_ids = [row.item_id for row in buckets]
    period_starts = [row.period_start for row in buckets]
    hours = [row.hour for row in buckets]
    group_keys = [row.group_key for row in buckets]
    for statement in (
        queries.usage_fold_revisions.hold_usage_buckets,
        queries.usage_fold_revisions.recompute_usage_buckets,
    ):
        await statement(
            tx,
            tenant_ids=tenant_ids,
            item_ids=item_ids,
            period_starts=period_starts,
            hours=hours,
            group_keys=group_keys,
        )


def _changed(
    before: Sequence[ListBucketsOfBatchesRow], after: Sequence[ListBucketsOfBatchesRow]
) -> set[PeriodKey]:
    said = _contents(before)
    return {
        PeriodKey(tenant_id, item_id, period_start)
        for (tenant_id, item_id, period_start, hour, group), content in _contents(after).items()
        if said.get((tenant_id, item_id, period_start, hour, group)) != content
    }


def _contents(buckets: Sequence[ListBucketsOfBatchesRow]) -> Mapping[_Key, _Content]:
    return {
        (row.tenant_id, row.item_id, row.period_start, row.hour, row.group_key): (
            row.records,
            row.quantity_sum,
            row.quantity_max,
        )
        for row in buckets
    }
