"""Usage path, before step 2: who makes usage periods.

Invariant: a usage period's row is there before its time begins: whoever opens a period makes the row of the next one
too, and a subscription is made with its first two. The fold never makes one: a row that does not exist cannot be
locked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import queries.cycles
from queries.models import Subscription, UsagePeriod

from billing.domain.invoice import InvoiceKind
from billing.domain.period import Period
from billing.runtime.db import Connection
from billing.services.subscription_terms import Stretch

BILL_KIND: Final = InvoiceKind.PERIOD


async def make_usage_periods(
    tx: Connection, wanted: Iterable[tuple[Subscription, Sequence[Stretch]]]
) -> None:
    """One row for each metered item of each subscription and stretch; rows that are there stay as they are."""
    pairs = [(row, stretch) for row, stretches in wanted for stretch in stretches]
    await queries.cycles.insert_usage_periods(
        tx,
        tenant_ids=[row.tenant_id for row, _ in pairs],
        subscription_ids=[row.id for row, _ in pairs],
        period_starts=[stretch.period.start for _, stretch in pairs],
        period_ends=[stretch.period.end for _, stretch in pairs],
        bill_kinds=[BILL_KIND if stretch.billed_at else None for _, stretch in pairs],
        bill_boundaries=[stretch.billed_at for _, stretch in pairs],
        nominal_starts=[_cut(stretch, stretch.nominal.start) for _, stretch in pairs],
        nominal_ends=[_cut(stretch, stretch.nominal.end) for _, stretch in pairs],
    )


def _cut(stretch: Stretch, bound: datetime) -> datetime | None:
    """A bound of the nominal period; none is stored for a period that is whole."""
    return None if stretch.period == stretch.nominal else bound


def nominal_of(row: UsagePeriod) -> Period:
    """The full period that a usage period is cut from."""
    return Period(row.nominal_start or row.period_start, row.nominal_end or row.period_end)
