"""Usage path, step 2: the handler of usage.reported; gives each record its owner and adds it to the buckets.

Invariant: a record is added to the buckets in the statement that gives it its owner, so once, however often its event
comes; and it is either read by the finalization of its period or marked there afterwards. A fold waits for nobody: a
record whose period is taken, or does not exist yet, stays unfolded, and its event waits. Revisions of a record are
folded one after the other, and the buckets that they touch are computed anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.usage_fold
import queries.usage_fold_revisions
from queries.usage_fold import ListUsageOwnersRow
from tollway.usage.v1 import usage_events_pb2 as payloads

from billing.domain.ids import Prefix, decode
from billing.runtime.db import Connection
from billing.services.incoming import Incoming
from billing.services.quantities import PeriodKey
from billing.services.usage_batch import BATCH_RECORDS_MAX
from billing.services.usage_buckets import TouchedBuckets, touched_by

# So that the router's transaction stays a matter of a second or two.
FOLD_RECORDS_MAX: Final = 50_000


@dataclass(frozen=True, slots=True)
class _Held:
    """The rows that this transaction keeps from changing: usage periods, and (tenant, customer) pairs."""

    periods: Sequence[PeriodKey]
    customers: Sequence[tuple[UUID, UUID]]


@dataclass(frozen=True, slots=True)
class _Batches:
    """The batches of the events that are folded, column by column."""

    tenant_ids: Sequence[UUID]
    batch_ids: Sequence[UUID]
    event_ids: Sequence[UUID]
    correlation_ids: Sequence[UUID]

    def events_of(self, left: Iterable[tuple[UUID, UUID]]) -> set[UUID]:
        """The events of these (tenant, batch) pairs."""
        pairs = zip(self.tenant_ids, self.batch_ids, strict=True)
        known = dict(zip(pairs, self.event_ids, strict=True))
        return {known[pair] for pair in left}


async def fold(tx: Connection, events: Sequence[Incoming], now: datetime) -> Collection[UUID]:
    """Folds what can be folded of the events' batches; answers the ids of events with records left.

    `now` is machine time, for the finalizers' flags. Beyond 50,000 records the later events wait for their turn.
    """
    taken = list(_within_limit(events))
    waiting = {event.event_id for event in events} - {event.event_id for event in taken}
    batches = _Batches(
        [event.tenant_id for event in taken],
        [decode(Prefix.USAGE_BATCH, event.resource) for event in taken],
        [event.event_id for event in taken],
        [event.correlation_id for event in taken],
    )
    owners = await queries.usage_fold.list_usage_owners(
        tx, tenant_ids=batches.tenant_ids, batch_ids=batches.batch_ids
    )
    if not owners:
        return waiting
    revisions = None
    if any(row.is_revision for row in owners):
        revisions = await touched_by(tx, batches.tenant_ids, batches.batch_ids)
    held = await _hold(tx, owners, revisions, now)
    if revisions is not None:
        await revisions.hold_buckets(tx)
    waiting |= batches.events_of(await _fold_records(tx, batches, held))
    if revisions is not None:
        waiting |= batches.events_of(await _fold_revisions(tx, batches, held, revisions))
        await revisions.recompute_buckets(tx)
    return waiting


def _within_limit(events: Sequence[Incoming]) -> Iterator[Incoming]:
    """The first events, as many as have FOLD_RECORDS_MAX records together."""
    if len(events) * BATCH_RECORDS_MAX <= FOLD_RECORDS_MAX:
        yield from events
        return
    records = 0
    for event in events:
        records += event.payload(payloads.UsageReported).record_count
        if records > FOLD_RECORDS_MAX:
            return
        yield event


async def _hold(
    tx: Connection,
    owners: Sequence[ListUsageOwnersRow],
    revisions: TouchedBuckets | None,
    now: datetime,
) -> _Held:
    """Takes the rows that the records' owners hang on, customers first; those that are taken are left out."""
    unassigned = sorted({(row.tenant_id, row.customer_id) for row in owners if row.item_id is None})
    customers: Sequence[tuple[UUID, UUID]] = ()
    if unassigned:
        rows = await queries.usage_fold.lock_customers_of_unassigned(
            tx,
            tenant_ids=[tenant_id for tenant_id, _ in unassigned],
            customer_ids=[customer_id for _, customer_id in unassigned],
        )
        customers = [(row.tenant_id, row.id) for row in rows]
    wanted = {
        PeriodKey(row.tenant_id, row.item_id, row.period_start): row.is_level
        for row in owners
        if row.item_id is not None and row.period_start is not None
    }
    if revisions is not None:
        wanted |= revisions.earlier_owners
    wanted |= await _later(tx, [key for key, is_level in wanted.items() if is_level])
    periods = await queries.usage_fold.lock_usage_periods_for_fold(
        tx,
        tenant_ids=[key.tenant_id for key in wanted],
        item_ids=[key.item_id for key in wanted],
        period_starts=[key.period_start for key in wanted],
        now=now,
    )
    return _Held(
        [PeriodKey(row.tenant_id, row.item_id, row.period_start) for row in periods], customers
    )


async def _later(tx: Connection, levels: Sequence[PeriodKey]) -> dict[PeriodKey, bool]:
    """The periods behind those that a delta of a level goes to: it is in their opening level."""
    if not levels:
        return {}
    rows = await queries.usage_fold.list_later_periods(
        tx,
        tenant_ids=[key.tenant_id for key in levels],
        item_ids=[key.item_id for key in levels],
        period_starts=[key.period_start for key in levels],
    )
    return {PeriodKey(row.tenant_id, row.item_id, row.period_start): True for row in rows}


async def _fold_records(
    tx: Connection, batches: _Batches, held: _Held
) -> Sequence[tuple[UUID, UUID]]:
    """Folds the records as they came in; answers the (tenant, batch) pairs that have some left."""
    left = await queries.usage_fold.fold_usage_records(
        tx,
        tenant_ids=batches.tenant_ids,
        batch_ids=batches.batch_ids,
        event_ids=batches.event_ids,
        correlation_ids=batches.correlation_ids,
        held_tenant_ids=[key.tenant_id for key in held.periods],
        held_item_ids=[key.item_id for key in held.periods],
        held_period_starts=[key.period_start for key in held.periods],
        held_customer_tenant_ids=[tenant_id for tenant_id, _ in held.customers],
        held_customer_ids=[customer_id for _, customer_id in held.customers],
    )
    return [(row.tenant_id, row.batch_id) for row in left]


async def _fold_revisions(
    tx: Connection, batches: _Batches, held: _Held, revisions: TouchedBuckets
) -> Sequence[tuple[UUID, UUID]]:
    """Folds the revisions that have their turn; answers the (tenant, batch) pairs that have some left."""
    left = await queries.usage_fold_revisions.fold_usage_revisions(
        tx,
        tenant_ids=batches.tenant_ids,
        batch_ids=batches.batch_ids,
        event_ids=batches.event_ids,
        correlation_ids=batches.correlation_ids,
        ready_tenant_ids=[row.tenant_id for row in revisions.ready],
        ready_keys=[row.idempotency_key for row in revisions.ready],
        ready_item_ids=[row.item_id for row in revisions.ready],
        ready_period_starts=[row.period_start for row in revisions.ready],
        held_tenant_ids=[key.tenant_id for key in held.periods],
        held_item_ids=[key.item_id for key in held.periods],
        held_period_starts=[key.period_start for key in held.periods],
        held_customer_tenant_ids=[tenant_id for tenant_id, _ in held.customers],
        held_customer_ids=[customer_id for _, customer_id in held.customers],
    )
    return [(row.tenant_id, row.batch_id) for row in left]
