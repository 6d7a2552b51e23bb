"""Usage path, step 4, and invoice path, step 4: how much was used in a usage period.

Invariant: money is computed from the recorded rows; the buckets serve running charges, and `reconciliation` says that
the two agree. Both answers are exact decimals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import queries.quantities

from billing.domain.errors import UsageNotRatable
from billing.runtime.db import Connection


@dataclass(frozen=True, slots=True, order=True)
class PeriodKey:
    """One usage period: a subscription item and the start of the period. Sorts as its rows are locked."""

    tenant_id: UUID
    item_id: UUID
    period_start: datetime


@dataclass(frozen=True, slots=True)
class Bucketed:
    """What the hour buckets of a usage period add up to."""

    records: int
    total: Decimal
    highest: Decimal

    def quantity(self, aggregation: str) -> Decimal:
        """The meter's answer. Raises UsageNotRatable for what buckets cannot tell."""
        match aggregation:
            case "count":
                return Decimal(self.records)
            case "sum":
                return self.total
            case "max":
                return self.highest
            case _:
                raise _not_countable(aggregation)


NOTHING_USED = Bucketed(0, Decimal(0), Decimal(0))


async def quantities_from_records(
    tx: Connection, keys: Sequence[PeriodKey]
) -> dict[PeriodKey, Decimal]:
    """The quantity of each period by its meter's aggregation, from the effective records; zero where there are none.

    A period that does not exist is left out. For finalization: lock the usage periods in an earlier statement of the
    same transaction, then nothing can be folded into them behind this one. Raises UsageNotRatable.
    """
    rows = await queries.quantities.list_quantities_from_records(
        tx,
        tenant_ids=[key.tenant_id for key in keys],
        item_ids=[key.item_id for key in keys],
        period_starts=[key.period_start for key in keys],
    )
    quantities = {}
    for row in rows:
        if row.quantity is None:
            raise _not_countable(row.aggregation)
        quantities[PeriodKey(row.tenant_id, row.item_id, row.period_start)] = row.quantity
    return quantities


async def quantities_from_buckets(
    tx: Connection, keys: Sequence[PeriodKey]
) -> dict[PeriodKey, Bucketed]:
    """What the buckets of each period add up to; a period without buckets is left out."""
    rows = await queries.quantities.list_quantities_from_buckets(
        tx,
        tenant_ids=[key.tenant_id for key in keys],
        item_ids=[key.item_id for key in keys],
        period_starts=[key.period_start for key in keys],
    )
    return {
        PeriodKey(row.tenant_id, row.item_id, row.period_start): Bucketed(
            row.records, row.total, row.highest
        )
        for row in rows
    }


def _not_countable(aggregation: str) -> UsageNotRatable:
    return UsageNotRatable(
        f"Meters that aggregate by {aggregation} cannot be rated; count, sum and max can."
    )
