"""Usage path, step 2: the handler of usage.reported; gives each record its owner and adds it to the buckets.

Invariant: a record is added to the buckets in the statement that gives it its owner, so once, however often its event
comes; and it is either read by the finalization of its period or marked there afterwards. A fold waits for nobody: a
record whose period is taken, or does not exist yet, stays unfolded, and its event waits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.usage_fold
from queries.usage_fold import ListUsageOwnersRow
from tollway.usage.v1 import usage_events_pb2 as payloads

from billing.domain.ids import Prefix, decode
from billing.runtime.db import Connection
from billing.services.incoming import Incoming
from billing.services.quantities import PeriodKey
from billing.services.usage_ingest import BATCH_RECORDS_MAX

# So that the router's transaction stays a matter of a second or two.
FOLD_RECORDS_MAX: Final = 50_000


@dataclass(frozen=True, slots=True)
class _Held:
    """The rows that this transaction keeps from changing: usage periods, and (tenant, customer) pairs."""

    periods: Sequence[PeriodKey]
    customers: Sequence[tuple[UUID, UUID]]


async def fold(tx: Connection, events: Sequence[Incoming], now: datetime) -> Collection[UUID]:
    """Folds what can be folded of the events' batches; answers the ids of events with records left.

    `now` is machine time, for the finalizers' flags. Beyond 50,000 records the later events wait for their turn.
    """
    taken = list(_within_limit(events))
    waiting = {event.event_id for event in events} - {event.event_id for event in taken}
    batches = {
        (event.tenant_id, decode(Prefix.USAGE_BATCH, event.resource)): event for event in taken
    }
    tenant_ids = [tenant_id for tenant_id, _ in batches]
    batch_ids = [batch_id for _, batch_id in batches]
    owners = await queries.usage_fold.list_usage_owners(
        tx, tenant_ids=tenant_ids, batch_ids=batch_ids
    )
    if not owners:
        return waiting
    held = await _hold(tx, owners, now)
    left = await queries.usage_fold.fold_usage_records(
        tx,
        tenant_ids=tenant_ids,
        batch_ids=batch_ids,
        event_ids=[event.event_id for event in batches.values()],
        correlation_ids=[event.correlation_id for event in batches.values()],
        held_tenant_ids=[key.tenant_id for key in held.periods],
        held_item_ids=[key.item_id for key in held.periods],
        held_period_starts=[key.period_start for key in held.periods],
        held_customer_tenant_ids=[tenant_id for tenant_id, _ in held.customers],
        held_customer_ids=[customer_id for _, customer_id in held.customers],
    )
    return waiting | {batches[row.tenant_id, row.batch_id].event_id for row in left}


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


async def _hold(tx: Connection, owners: Sequence[ListUsageOwnersRow], now: datetime) -> _Held:
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
        (row.tenant_id, row.item_id, row.period_start)
        for row in owners
        if row.item_id is not None and row.period_start is not None
    }
    periods = await queries.usage_fold.lock_usage_periods_for_fold(
        tx,
        tenant_ids=[tenant_id for tenant_id, _, _ in wanted],
        item_ids=[item_id for _, item_id, _ in wanted],
        period_starts=[start for _, _, start in wanted],
        now=now,
    )
    return _Held(
        [PeriodKey(row.tenant_id, row.item_id, row.period_start) for row in periods], customers
    )
