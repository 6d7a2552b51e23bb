"""Usage path: what a meter makes of records, exactly.

Invariant: the result depends on the records alone, not on their order or on how they came in
batches. Count, sum and max can be kept in buckets and merged; unique, latest and weighted sum are
computed from the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Final

from billing.domain.errors import InvalidMeter
from billing.domain.filters import FILTERS_MAX, Filter
from billing.domain.period import Period

GROUP_BY_MAX: Final = 5
_MICROSECOND: Final = timedelta(microseconds=1)
_ZERO: Final = Fraction(0)


class Aggregation(StrEnum):
    """How records become one quantity."""

    COUNT = "count"
    SUM = "sum"
    MAX = "max"
    UNIQUE = "unique"
    LATEST = "latest"
    WEIGHTED_SUM = "weighted_sum"

    @property
    def from_buckets(self) -> bool:
        """Whether hour buckets are enough; the others need the rows."""
        return self in (Aggregation.COUNT, Aggregation.SUM, Aggregation.MAX)


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """The effective revision of one record. `key` is its idempotency key and breaks ties."""

    key: str
    timestamp: datetime
    value: Fraction
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Meter:
    """What is counted. `unique_property` is the property whose distinct values UNIQUE counts."""

    aggregation: Aggregation
    unique_property: str | None = None
    filters: tuple[Filter, ...] = ()
    group_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.aggregation is Aggregation.UNIQUE) != (self.unique_property is not None):
            raise InvalidMeter.field(
                "unique_property", "name it for the aggregation unique, and for no other."
            )
        if len(self.filters) > FILTERS_MAX:
            raise InvalidMeter.field("filters", f"give at most {FILTERS_MAX}.")
        if len(self.group_by) > GROUP_BY_MAX or len(set(self.group_by)) != len(self.group_by):
            raise InvalidMeter.field("group_by", f"name at most {GROUP_BY_MAX}, each once.")

    def accepts(self, properties: Mapping[str, str]) -> bool:
        """Whether all filters pass."""
        return all(condition.accepts(properties) for condition in self.filters)

    def group_of(self, properties: Mapping[str, str]) -> tuple[str, ...]:
        """The group's values in order; an absent property groups as the empty text."""
        return tuple(properties.get(name, "") for name in self.group_by)


@dataclass(frozen=True, slots=True)
class Window:
    """The period measured. `nominal` is the full one it is cut from (default: itself), and
    `opening` the level at its start, both of which only the weighted sum needs."""

    period: Period
    nominal: Period | None = None
    opening: Mapping[tuple[str, ...], Fraction] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Count, sum and max of some records: merging is associative and commutative."""

    count: int = 0
    sum: Fraction = _ZERO
    max: Fraction | None = None

    @classmethod
    def of(cls, values: Sequence[Fraction]) -> Bucket:
        """Some records, by their values."""
        return cls(len(values), sum(values, _ZERO), max(values, default=None))

    def merge(self, other: Bucket) -> Bucket:
        """Both together."""
        highest = [value for value in (self.max, other.max) if value is not None]
        return Bucket(
            self.count + other.count, self.sum + other.sum, max(highest) if highest else None
        )

    def quantity(self, aggregation: Aggregation) -> Fraction:
        """The bucket's answer; zero of nothing."""
        match aggregation:
            case Aggregation.COUNT:
                return Fraction(self.count)
            case Aggregation.SUM:
                return self.sum
            case Aggregation.MAX:
                return self.max if self.max is not None else _ZERO
            case _:
                raise InvalidMeter(f"{aggregation} is computed from the records, not from buckets.")


def measure(meter: Meter, records: Iterable[UsageRecord], window: Window) -> Fraction:
    """The quantity of all records in the window that the filters accept, ungrouped."""
    chosen = [r for r in records if window.period.contains(r.timestamp)]
    chosen = [r for r in chosen if meter.accepts(r.properties)]
    return _aggregate(meter, chosen, window, sum(window.opening.values(), _ZERO))


def measure_groups(
    meter: Meter, records: Iterable[UsageRecord], window: Window
) -> dict[tuple[str, ...], Fraction]:
    """The quantity of each group that has records, or (weighted sum) an opening level."""
    groups: dict[tuple[str, ...], list[UsageRecord]] = {}
    if meter.aggregation is Aggregation.WEIGHTED_SUM:
        groups = {group: [] for group, level in window.opening.items() if level}
    for record in records:
        if window.period.contains(record.timestamp) and meter.accepts(record.properties):
            groups.setdefault(meter.group_of(record.properties), []).append(record)
    return {
        group: _aggregate(meter, groups[group], window, window.opening.get(group, _ZERO))
        for group in sorted(groups)
    }


def _aggregate(
    meter: Meter, records: list[UsageRecord], window: Window, opening: Fraction
) -> Fraction:
    match meter.aggregation:
        case Aggregation.UNIQUE:
            # A record without the property names nobody and counts nobody.
            name = meter.unique_property or ""
            return Fraction(len({r.properties[name] for r in records if name in r.properties}))
        case Aggregation.LATEST:
            last = max(records, key=lambda r: (r.timestamp, r.key), default=None)
            return last.value if last is not None else _ZERO
        case Aggregation.WEIGHTED_SUM:
            deltas = ((r.timestamp, r.value) for r in records)
            return weighted_sum(deltas, window.period, opening, nominal=window.nominal)
        case _:
            return Bucket.of([record.value for record in records]).quantity(meter.aggregation)


def weighted_sum(
    deltas: Iterable[tuple[datetime, Fraction]],
    period: Period,
    opening: Fraction,
    *,
    nominal: Period | None = None,
) -> Fraction:
    """The integral of the level over `period` / length of the full nominal period.

    `opening` is the level at the start: the sum of all earlier deltas. Deltas outside of the
    period are the affair of other periods and are passed over.
    """
    area = opening * period.microseconds
    for at, delta in deltas:
        if period.contains(at):
            area += delta * ((period.end - at) // _MICROSECOND)
    return area / (nominal or period).microseconds
