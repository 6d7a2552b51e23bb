"""Usage path, step 3, and invoice path, step 4: how much was used in usage periods, by group.

Invariant: money is computed from the recorded rows; the buckets serve running charges, and `reconciliation` says that
the two agree. Every answer is exact, and the same as billing.domain.meter gives for the same records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from typing import Final

import queries.quantities
from queries.models import UsagePeriod
from queries.quantities import ListPeriodMetersRow

from billing.domain.errors import UsageNotRatable
from billing.domain.meter import Aggregation
from billing.domain.pricing import Price, Usage
from billing.runtime.db import Connection
from billing.services.quantity_reads import READS, Asked, Group, PeriodKey, Way, group_of, key_of

__all__ = ["Group", "Measured", "PeriodKey", "Source", "key_of", "measure"]

# Each is a line, and an invoice must still be readable in one answer.
GROUPS_MAX: Final = 2000


class Source(StrEnum):
    """Where quantities come from: the records, or the hour buckets as far as they can tell."""

    RECORDS = "records"
    BUCKETS = "buckets"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a usage period holds for each group value, in the order of the meter's `group_by`.

    Without group-by there is one group, (), at zero usage too.
    """

    group_by: Group
    groups: Mapping[Group, Usage]


async def measure(
    tx: Connection, wanted: Sequence[tuple[UsagePeriod, Price]], source: Source = Source.RECORDS
) -> dict[PeriodKey, Measured | UsageNotRatable]:
    """What each usage period holds, for the price that will rate it; not so where it has more than GROUPS_MAX groups.

    Of records the effective ones count: those with a stored owner, each in its highest folded revision. Lock the
    periods first in the same transaction, then nothing can be folded into them behind this.
    """
    if not wanted:
        return {}
    meters = await queries.quantities.list_period_meters(
        tx,
        tenant_ids=[row.tenant_id for row, _ in wanted],
        item_ids=[row.item_id for row, _ in wanted],
        period_starts=[row.period_start for row, _ in wanted],
        groups_limit=GROUPS_MAX + 1,
    )
    meter_of = {PeriodKey(row.tenant_id, row.item_id, row.period_start): row for row in meters}
    asked: dict[Way, list[Asked]] = defaultdict(list)
    for row, price in wanted:
        meter = meter_of[key_of(row)]
        if meter.group_count > GROUPS_MAX:
            continue
        aggregation = Aggregation(meter.aggregation)
        way = _way(aggregation, price, source, grouped=bool(meter.group_by))
        asked[way].append(Asked(row, aggregation, price))
    groups: dict[PeriodKey, dict[Group, Usage]] = defaultdict(dict)
    for way, ones in asked.items():
        for key, group_key, usage in await READS[way](tx, ones):
            group = group_of(group_key)
            named = dict(zip(meter_of[key].group_by, group, strict=True))
            groups[key][group] = replace(usage, dimensions=named) if named else usage
    return {
        key: _too_many(meter)
        if meter.group_count > GROUPS_MAX
        else Measured(tuple(meter.group_by), _groups(groups.get(key, {}), bool(meter.group_by)))
        for key, meter in meter_of.items()
    }


def _way(aggregation: Aggregation, price: Price, source: Source, *, grouped: bool) -> Way:
    """The statement that can answer: buckets cannot tell values apart, nor events in time order."""
    match aggregation:
        case Aggregation.UNIQUE:
            return Way.UNIQUES
        case Aggregation.LATEST:
            return Way.LATEST
        case Aggregation.WEIGHTED_SUM:
            return Way.LEVELS
        case _:
            if price.needs_events:
                return Way.ALLOWANCES
            if source is Source.BUCKETS:
                return Way.BUCKETS
            return Way.SUMS if grouped else Way.TOTALS


def _groups(found: Mapping[Group, Usage], grouped: bool) -> Mapping[Group, Usage]:
    if found or grouped:
        return found
    return {(): Usage(Fraction(0), events_count=0)}


def _too_many(meter: ListPeriodMetersRow) -> UsageNotRatable:
    return UsageNotRatable(
        f"The usage has more than {GROUPS_MAX} values of {', '.join(meter.group_by)}, and each would be a line; void"
        " the records that should not have one of their own."
    )
