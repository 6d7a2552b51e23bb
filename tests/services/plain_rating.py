"""What a calculator would say: quantities and amounts from plain lists, with exact fractions and none of our code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A record."""

    key: str
    at: datetime
    value: Fraction
    properties: Mapping[str, str] = field(default_factory=dict)


Group = tuple[str, ...]
Groups = dict[Group, list[Entry]]
Period = tuple[datetime, datetime]
_MICROSECOND = timedelta(microseconds=1)


def cents(amount: Fraction) -> int:
    """A half goes away from zero."""
    size = math.floor(abs(amount) * 100 + Fraction(1, 2))
    return size if amount >= 0 else -size


def counted(meter: Mapping[str, Any], entries: Iterable[Entry]) -> Groups:
    """The entries that pass, by group."""
    groups: Groups = {}
    for entry in entries:
        if all(passes(one, entry.properties) for one in meter.get("filters", ())):
            group = tuple(entry.properties.get(name, "") for name in meter.get("group_by", ()))
            groups.setdefault(group, []).append(entry)
    if not groups and not meter.get("group_by"):
        groups[()] = []
    return groups


def passes(condition: Mapping[str, Any], properties: Mapping[str, str]) -> bool:
    value = properties.get(condition["property"])
    if condition["operator"] == "exists":
        return value is not None
    is_listed: bool = value in condition["values"]
    return is_listed is (condition["operator"] == "in")


def quantity(
    meter: Mapping[str, Any], entries: Sequence[Entry], period: Period, nominal: Period
) -> Fraction:
    """What the meter makes of a group; of weighted sums, `entries` are those since ever."""
    start, end = period
    inside = [entry for entry in entries if start <= entry.at < end]
    values = [entry.value for entry in inside]
    match meter["aggregation"]:
        case "count":
            return Fraction(len(values))
        case "sum":
            return sum(values, Fraction(0))
        case "max":
            return max(values, default=Fraction(0))
        case "unique":
            return Fraction(len({entry.properties[meter["unique_property"]] for entry in inside}))
        case "latest":
            return max(inside, key=lambda e: (e.at, e.key)).value if inside else Fraction(0)
        case _:
            earlier = [entry for entry in entries if entry.at < end]
            stood = (entry.value * length(max(entry.at, start), end) for entry in earlier)
            return sum(stood, Fraction(0)) / length(*nominal)


def length(start: datetime, end: datetime) -> int:
    """In whole microseconds: every instant is one."""
    return (end - start) // _MICROSECOND


def share(period: Period, nominal: Period) -> Fraction:
    """A period's part of the full one that it is cut from."""
    return Fraction(length(*period), length(*nominal))


def per_unit(config: Mapping[str, Any], amount: Fraction) -> Fraction:
    # A level below zero gives back; free units are nobody's credit.
    free = Fraction(config.get("free_units", "0"))
    paid = amount if amount < 0 else max(amount - free, Fraction(0))
    return paid * Fraction(config["unit_amount"])


def package(config: Mapping[str, Any], amount: Fraction) -> Fraction:
    paid = max(amount - Fraction(config.get("free_units", "0")), Fraction(0))
    return math.ceil(paid / Fraction(config["package_size"])) * Fraction(config["package_amount"])


def in_tier(tier: Mapping[str, Any], part: Fraction) -> Fraction:
    """What a part of the quantity costs in its tier."""
    units = part
    if "package_size" in tier:
        units = max(Fraction(math.ceil(part / Fraction(tier["package_size"]))), Fraction(0))
    percent = part * Fraction(tier.get("percent", "0")) / 100
    return (
        Fraction(tier.get("flat_amount", "0"))
        + units * Fraction(tier.get("unit_amount", "0"))
        + percent
    )


def graduated(config: Mapping[str, Any], amount: Fraction) -> Fraction:
    total, below = Fraction(0), Fraction(0)
    for place, tier in enumerate(config["tiers"]):
        if place and amount <= below:
            break
        top = amount if tier["up_to"] == "inf" else min(amount, Fraction(tier["up_to"]))
        total += in_tier(tier, top - below)
        below = top
    return total


def volume(config: Mapping[str, Any], amount: Fraction) -> Fraction:
    for tier in config["tiers"]:
        if tier["up_to"] == "inf" or amount <= Fraction(tier["up_to"]):
            return in_tier(tier, amount)
    raise AssertionError("the last tier is open")


PRICED: Mapping[str, Callable[[Mapping[str, Any], Fraction], Fraction]] = {
    "per_unit": per_unit,
    "package": package,
    "graduated": graduated,
    "graduated_percentage": graduated,
    "volume": volume,
}


def percentage(config: Mapping[str, Any], entries: Sequence[Entry]) -> Fraction:
    """Event by event in time order, as one would with a pencil."""
    events_left = config.get("free_events") or math.inf
    amount_left: Any = Fraction(config["free_amount"]) if "free_amount" in config else math.inf
    if math.inf in (events_left, amount_left) and events_left == amount_left:
        events_left = 0
    total = Fraction(0)
    for entry in sorted(entries, key=lambda e: (e.at, e.key)):
        paid = entry.value
        if events_left > 0 and amount_left > 0:
            if entry.value <= amount_left:
                amount_left -= entry.value
                events_left -= 1
                continue
            paid = entry.value - amount_left
            amount_left = 0
        events_left = 0
        total += paid * Fraction(config["rate_percent"]) / 100
        total += Fraction(config.get("fixed_amount", "0"))
    return total


def matrix(config: Mapping[str, Any], group: Mapping[str, str], amount: Fraction) -> Fraction:
    key = [group[name] for name in config["dimensions"]]
    for cell in config["cells"]:
        if cell["values"] == key:
            return amount * Fraction(cell["unit_amount"])
    return amount * Fraction(config["default_unit_amount"])


# A number to the whole one that the mode says.
WHOLE: Mapping[str, Callable[[Fraction], int]] = {
    "ceiling": math.ceil,
    "floor": math.floor,
    "up": lambda number: math.ceil(number) if number > 0 else math.floor(number),
    "down": math.trunc,
    "half_up": lambda number: math.floor(abs(number) + Fraction(1, 2)) * (1 if number > 0 else -1),
    "half_down": lambda number: math.ceil(abs(number) - Fraction(1, 2)) * (1 if number > 0 else -1),
    "half_even": round,
}


def rounded(rounding: Mapping[str, Any], amount: Fraction) -> Fraction:
    """Divided first, then rounded."""
    step = Fraction(1, 10 ** rounding["decimals"])
    return WHOLE[rounding["mode"]](amount / Fraction(rounding["divide_by"]) / step) * step


def line(
    meter: Mapping[str, Any],
    price: tuple[str, Mapping[str, Any]],
    group: Group,
    entries: Sequence[Entry],
    period: Period,
    nominal: Period,
) -> int:
    """The amount of a group's line, in cents."""
    model, config = price
    start, end = period
    if model == "percentage":
        return cents(percentage(config, [e for e in entries if start <= e.at < end]))
    amount = quantity(meter, entries, period, nominal)
    if "quantity_rounding" in config:
        amount = rounded(config["quantity_rounding"], amount)
    if model == "matrix":
        named = dict(zip(meter["group_by"], group, strict=True))
        return cents(matrix(config, named, amount))
    return cents(PRICED[model](config, amount))


def lines(
    meter: Mapping[str, Any],
    price: tuple[str, Mapping[str, Any]],
    entries: Iterable[Entry],
    period: Period,
    nominal: Period | None = None,
) -> tuple[dict[Group, int], int]:
    """The line of each group that is there, in cents, and the true-up of their sum to minimum or maximum.

    `entries` are all that there ever were; `nominal` is the full period that `period` is cut from.
    """
    nominal = nominal or period
    start, end = period
    if meter["aggregation"] != "weighted_sum":
        entries = [entry for entry in entries if start <= entry.at < end]
    found = {
        group: line(meter, price, group, members, period, nominal)
        for group, members in counted(meter, entries).items()
        if meter["aggregation"] != "weighted_sum" or not group or _has_level(members, period)
    }
    bounds = share(period, nominal)
    return found or {(): 0}, true_up(price[1], sum(found.values()), bounds)


def _has_level(entries: Sequence[Entry], period: Period) -> bool:
    """Whether a group of a level is there at all: it opens above or below zero, or moves."""
    start, end = period
    opening = sum(entry.value for entry in entries if entry.at < start)
    return bool(opening) or any(start <= entry.at < end for entry in entries)


def true_up(config: Mapping[str, Any], total: int, scale: Fraction) -> int:
    """What lacks to the minimum, or is above the maximum."""
    bounded = total
    if "minimum_amount" in config:
        bounded = max(bounded, cents(Fraction(config["minimum_amount"]) * scale))
    if "maximum_amount" in config:
        bounded = min(bounded, cents(Fraction(config["maximum_amount"]) * scale))
    return bounded - total
