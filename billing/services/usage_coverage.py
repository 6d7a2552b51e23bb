"""Subscription path, step 3, the metered side: usage periods are cut, moved and begun when a subscription changes.

Invariant: the usage periods of an item tile its time without gap or overlap, before and after; their rows are locked
in one sorted statement behind the subscription, so a fold has either written its owners before, or looks again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from uuid import UUID

import queries.subscription_changes
from queries.models import Subscription, SubscriptionItem, UsagePeriod

from billing.domain.invoice import InvoiceKind
from billing.domain.period import Period
from billing.runtime.db import Connection
from billing.services.subscription_terms import Stretch, Terms
from billing.services.usage_periods import BILL_KIND, nominal_of


async def hold_usage(tx: Connection, row: Subscription, at: datetime) -> list[UsagePeriod]:
    """Locks the usage periods that a change at `at` can touch."""
    return await queries.subscription_changes.hold_usage_periods(
        tx, tenant_id=row.tenant_id, subscription_id=row.id, at=at, boundary=row.period_end
    )


async def end_usage(
    tx: Connection, row: Subscription, item_ids: Collection[UUID], at: datetime
) -> None:
    """The items' usage ends at `at`: the periods there are cut, the later ones will not be."""
    items = sorted(item_ids)
    await queries.subscription_changes.cut_usage_periods(
        tx, tenant_id=row.tenant_id, item_ids=items, at=at
    )
    await queries.subscription_changes.delete_usage_periods_from(
        tx, tenant_id=row.tenant_id, item_ids=items, at=at
    )


async def reprice_usage(
    tx: Connection,
    held: Iterable[UsagePeriod],
    item: SubscriptionItem,
    price_id: UUID,
    at: datetime,
) -> None:
    """The item's usage period at `at` ends there and another begins, with the new price, as have all later ones.

    For callers that have given the item its new price.
    """
    cut = [one for one in held if one.item_id == item.id and one.period_start < at < one.period_end]
    await queries.subscription_changes.cut_usage_periods(
        tx, tenant_id=item.tenant_id, item_ids=[item.id], at=at
    )
    await _insert(
        tx,
        item.tenant_id,
        [
            (item.id, Period(at, one.period_end), nominal_of(one), one.bill_kind, one.bill_boundary)
            for one in cut
        ],
    )
    await queries.subscription_changes.reprice_usage_periods(
        tx, tenant_id=item.tenant_id, item_id=item.id, price_id=price_id, at=at
    )


async def begin_usage(
    tx: Connection, row: Subscription, item: SubscriptionItem, at: datetime
) -> None:
    """The usage periods of an item that the subscription gets at `at`: the one at `at` and those that exist ahead."""
    await _insert(
        tx,
        item.tenant_id,
        [
            (
                item.id,
                Period(max(at, one.period.start), one.period.end),
                one.nominal,
                BILL_KIND if one.billed_at else None,
                one.billed_at,
            )
            for one in _stretches_at(row, at)
        ],
    )


async def rekey_usage(
    tx: Connection, row: Subscription, kind: InvoiceKind, boundary: datetime
) -> None:
    """What the invoice at the current period's end was to bill is billed by another one."""
    await queries.subscription_changes.rekey_usage_periods(
        tx,
        tenant_id=row.tenant_id,
        subscription_id=row.id,
        kind=kind,
        boundary=boundary,
        old_boundary=_end_of(row),
    )


async def rekey_trial(
    tx: Connection, row: Subscription, kind: InvoiceKind, boundary: datetime
) -> bool:
    """What of the trial is billed is billed at `boundary`, which ends it; whether there is any."""
    moved = await queries.subscription_changes.rekey_trial_usage(
        tx, tenant_id=row.tenant_id, subscription_id=row.id, kind=kind, boundary=boundary
    )
    return bool(moved)


def _stretches_at(row: Subscription, at: datetime) -> list[Stretch]:
    """The stretches that have usage periods already and end after `at`."""
    terms = Terms.of(row)
    if row.period_start is None:
        return [one for one in terms.first_ones() if one.period.end > at]
    current = max(row.period_start, terms.billed_from)
    ahead = terms.two_from(current)
    if row.period_start < terms.billed_from:  # imported, and what is billed elsewhere runs still
        ahead.insert(0, Stretch.unbilled(row.period_start, terms.billed_from))
    return [one for one in ahead if one.period.end > at]


def _end_of(row: Subscription) -> datetime:
    assert row.period_end is not None, (
        "only a subscription in a billing period has something to bill"
    )
    return row.period_end


_NewPeriod = tuple[UUID, Period, Period, str | None, datetime | None]


async def _insert(tx: Connection, tenant_id: UUID, rows: Sequence[_NewPeriod]) -> None:
    await queries.subscription_changes.insert_item_periods(
        tx,
        tenant_id=tenant_id,
        item_ids=[item_id for item_id, _, _, _, _ in rows],
        period_starts=[period.start for _, period, _, _, _ in rows],
        period_ends=[period.end for _, period, _, _, _ in rows],
        nominal_starts=[nominal.start for _, _, nominal, _, _ in rows],
        nominal_ends=[nominal.end for _, _, nominal, _, _ in rows],
        bill_kinds=[kind for _, _, _, kind, _ in rows],
        bill_boundaries=[boundary for _, _, _, _, boundary in rows],
    )
