"""Usage path, before step 2: who makes usage periods.

Invariant: a usage period's row is there before its time begins: whoever opens a period makes the row of the next one
too, and a subscription is made with its first two. The fold never makes one: a row that does not exist cannot be
locked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import queries.cycles
from queries.models import Subscription

from billing.domain.invoice import InvoiceKind
from billing.runtime.db import Connection
from billing.services.subscription_terms import Stretch

BILL_KIND: Final = InvoiceKind.PERIOD


async def make_usage_periods(
    tx: Connection, wanted: Iterable[tuple[Subscription, Sequence[Stretch]]]
) -> None:
    """One row for each metered item of each subscription and stretch; rows that are there stay as they are."""
    pairs = [(row, stretch) for row, stretches in wanted for stretch in stretches]
    wholes = [stretch.cut_from for _, stretch in pairs]
    await queries.cycles.insert_usage_periods(
        tx,
        tenant_ids=[row.tenant_id for row, _ in pairs],
        subscription_ids=[row.id for row, _ in pairs],
        period_starts=[stretch.period.start for _, stretch in pairs],
        period_ends=[stretch.period.end for _, stretch in pairs],
        nominal_starts=[whole.start if whole else None for whole in wholes],
        nominal_ends=[whole.end if whole else None for whole in wholes],
        bill_kinds=[BILL_KIND if stretch.billed_at else None for _, stretch in pairs],
        bill_boundaries=[stretch.billed_at for _, stretch in pairs],
    )
