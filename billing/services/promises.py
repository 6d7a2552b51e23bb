"""Invoice path, step 4: the billing periods of drafts whose plans promise an amount, and what counts towards it.

Invariant: a period is known by the cycle that ended it, so an adjustment finds the commitment of the period that it
corrects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import queries.commitments
from queries.commitments import ListPromisesRow
from queries.models import FeePeriod, Invoice, UsagePeriod

from billing.domain.invoice import InvoiceKind
from billing.runtime.db import Connection
from billing.services.corrections import earlier_line
from billing.services.draft_periods import PeriodsByDraft
from billing.services.invoice_line import EarlierLine

# A change does where it ends the period for another interval.
_ENDS_A_PERIOD = (InvoiceKind.PERIOD, InvoiceKind.CHANGE, InvoiceKind.FINAL)


class CycleKey(NamedTuple):
    """The cycle that ended a billing period."""

    tenant_id: UUID
    subscription_id: UUID
    kind: str
    boundary: datetime


@dataclass(frozen=True, slots=True)
class Promise:
    """A billing period with a commitment, what counts towards it, and what final invoices carry of its true-up.

    It has a stretch for each plan that it had, in order, each with that plan's commitment.
    """

    stretches: Sequence[ListPromisesRow]
    usage: Sequence[UsagePeriod]
    fees: Sequence[FeePeriod]
    earlier: Sequence[EarlierLine]

    @property
    def row(self) -> ListPromisesRow:
        """The period, and the plan that it ended with."""
        return self.stretches[-1]


async def read_promises(
    tx: Connection, drafts: Sequence[Invoice], periods: PeriodsByDraft
) -> dict[UUID, list[Promise]]:
    """By invoice id, for the periods that the drafts end and for those that they adjust."""
    cycles = {draft.id: sorted(set(_cycles(draft, periods))) for draft in drafts}
    promises = await promises_of(tx, {key for found in cycles.values() for key in found})
    return {
        identity: [promises[key] for key in found if key in promises]
        for identity, found in cycles.items()
    }


async def promises_of(tx: Connection, cycles: Collection[CycleKey]) -> dict[CycleKey, Promise]:
    """The periods that these cycles end, where they owe a commitment."""
    keys = sorted(cycles)
    rows: Sequence[ListPromisesRow] = ()
    if keys:
        rows = await queries.commitments.list_promises(
            tx,
            tenant_ids=[key.tenant_id for key in keys],
            subscription_ids=[key.subscription_id for key in keys],
            kinds=[key.kind for key in keys],
            boundaries=[key.boundary for key in keys],
        )
    return await _read(tx, rows) if rows else {}


def _cycles(draft: Invoice, periods: PeriodsByDraft) -> Iterator[CycleKey]:
    if draft.kind in _ENDS_A_PERIOD and draft.subscription_id is not None:
        yield CycleKey(draft.tenant_id, draft.subscription_id, draft.kind, draft.boundary)
    for row in periods[draft.id].adjusted:
        if row.bill_kind in _ENDS_A_PERIOD and row.bill_boundary is not None:
            yield CycleKey(row.tenant_id, row.subscription_id, row.bill_kind, row.bill_boundary)


async def _read(tx: Connection, found: Sequence[ListPromisesRow]) -> dict[CycleKey, Promise]:
    stretches: dict[CycleKey, list[ListPromisesRow]] = defaultdict(list)
    for row in found:
        stretches[_key(row)].append(row)
    rows = [parts[-1] for parts in stretches.values()]
    tenants = [row.tenant_id for row in rows]
    subscriptions = [row.subscription_id for row in rows]
    kinds = [row.kind for row in rows]
    boundaries = [row.boundary for row in rows]
    usage: dict[CycleKey, list[UsagePeriod]] = defaultdict(list)
    for period in await queries.commitments.list_promised_usage(
        tx,
        tenant_ids=tenants,
        subscription_ids=subscriptions,
        kinds=kinds,
        boundaries=boundaries,
    ):
        assert period.bill_kind is not None and period.bill_boundary is not None  # noqa: PT018 - joined by them
        owner = (period.tenant_id, period.subscription_id)
        usage[CycleKey(*owner, period.bill_kind, period.bill_boundary)].append(period)
    fees: dict[CycleKey, list[FeePeriod]] = defaultdict(list)
    for part in await queries.commitments.list_promised_fees(
        tx,
        tenant_ids=tenants,
        subscription_ids=subscriptions,
        kinds=kinds,
        boundaries=boundaries,
        period_starts=[row.period_start for row in rows],
    ):
        fee = part.fee_period
        fees[CycleKey(fee.tenant_id, fee.subscription_id, part.kind, part.boundary)].append(fee)
    earlier = await _earlier(tx, rows)
    return {
        key: Promise(
            stretches[key],
            usage[key],
            fees[key],
            earlier.get((row.tenant_id, row.subscription_id, row.period_start), ()),
        )
        for row in rows
        for key in [_key(row)]
    }


def _key(row: ListPromisesRow) -> CycleKey:
    return CycleKey(row.tenant_id, row.subscription_id, row.kind, row.boundary)


async def _earlier(
    tx: Connection, rows: Sequence[ListPromisesRow]
) -> Mapping[tuple[UUID, UUID, datetime], Sequence[EarlierLine]]:
    found = await queries.commitments.list_earlier_true_ups(
        tx,
        tenant_ids=[row.tenant_id for row in rows],
        subscription_ids=[row.subscription_id for row in rows],
        period_starts=[row.period_start for row in rows],
    )
    earlier: dict[tuple[UUID, UUID, datetime], list[EarlierLine]] = defaultdict(list)
    for row in found:
        earlier[row.tenant_id, row.subscription_id, row.period_start].append(earlier_line(row))
    return earlier
