"""`tollway pricing check`: the models that measure records before they are priced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from fractions import Fraction

from billing.domain.cases.case import Case, NotSupported, Section, number
from billing.domain.cases.compare import Approximate
from billing.domain.cases.prices import ZERO, Got, make_price
from billing.domain.meter import (
    Aggregation,
    Bucket,
    Meter,
    UsageRecord,
    Window,
    measure,
    weighted_sum,
)
from billing.domain.period import Period
from billing.domain.pricing import PerUnit, Usage, rate


def weighted(case: Case) -> Got:
    """weighted_sum: the level over the period, by its changes or by its segments."""
    config = case.config.only("unit_amount", "weighting", "recurring", "initial_value")
    usage = case.usage.only("period", "events", "segments")
    weighting = config.text("weighting", "second")
    if weighting not in ("second", "day_average"):
        raise NotSupported(f"config.weighting={weighting}")
    # A level that does not recur begins each period at zero.
    opening = config.number("initial_value", ZERO) if config.flag("recurring", True) else ZERO
    if usage.need("segments", "events", "period") == "segments":
        units = _average(usage)
    else:
        units = _integral(usage, opening, whole_days=weighting == "day_average")
    if not config.has("unit_amount"):
        return {"units": Approximate(units)}
    price = make_price(case, PerUnit(config.number("unit_amount")))
    return {"units": Approximate(units), "total": rate(price, Usage(units)).amount}


def _integral(usage: Section, opening: Fraction, *, whole_days: bool) -> Fraction:
    period = usage.period("period")
    deltas = sorted(_deltas(usage, whole_days=whole_days))
    # What changed before the period is its opening level.
    opening += sum((delta for at, delta in deltas if at < period.start), ZERO)
    return weighted_sum(deltas, period, opening)


def _deltas(usage: Section, *, whole_days: bool) -> Iterator[tuple[datetime, Fraction]]:
    for event in usage.children("events"):
        event.only("t", "delta")
        at = event.instant("t")
        if whole_days and (at.hour, at.minute, at.second, at.microsecond) != (0, 0, 0, 0):
            # Which of the day's levels counts for the whole day, the format does not say.
            raise NotSupported("config.weighting=day_average with a change within a day")
        yield at, event.number("delta")


def _average(usage: Section) -> Fraction:
    area = days = ZERO
    for segment in usage.children("segments"):
        segment.only("value", "days")
        area += segment.number("value") * segment.number("days")
        days += segment.number("days")
    if usage.has("period"):
        days = Fraction(usage.period("period").microseconds, 86_400_000_000)
    return area / days


def aggregation(case: Case) -> Got:
    """Count, sum and max of a field, and how many distinct values another has."""
    config = case.config.only("field", "unique_field")
    events = case.usage.only("events").children("events")
    field = str(config.raw[config.need("field", "unique_field")])
    unique = str(config.raw.get("unique_field") or field)
    got = {"count": Fraction(len(events)), "unique_count": _unique(events, unique)}
    # A field that is only counted need not hold numbers.
    if isinstance(case.expected, Mapping) and not case.expected.keys() & {"sum", "max"}:
        return got
    bucket = Bucket.of([number(e.raw[field], f"events.{field}") for e in events if e.has(field)])
    sums = {"sum": bucket.quantity(Aggregation.SUM), "max": bucket.quantity(Aggregation.MAX)}
    return got | sums


def _unique(events: list[Section], name: str) -> Fraction:
    at = datetime.fromisoformat("2000-01-01T00:00:00+00:00")
    window = Window(Period(at, at.replace(year=2001)))
    records = [
        UsageRecord(str(index), at, ZERO, {name: str(event.raw[name])})
        for index, event in enumerate(events)
        if event.has(name)
    ]
    return measure(Meter(Aggregation.UNIQUE, name), records, window)
