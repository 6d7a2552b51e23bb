"""The arithmetic of the plain model of billing: rounding, calendars, and how an amount is spread."""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo


def half_away(value: Fraction) -> int:
    """The nearest whole number; a half goes away from zero."""
    size = int(abs(value) + Fraction(1, 2))
    return -size if value < 0 else size


def share(part: timedelta, whole: timedelta) -> Fraction:
    """A part of a stretch of time, exactly."""
    unit = timedelta(microseconds=1)
    return Fraction(part // unit, whole // unit)


def months_later(anchor: datetime, months: int, zone: str) -> datetime:
    """The same day and time of a later month where somebody lives, or its last day."""
    local = anchor.astimezone(ZoneInfo(zone))
    year, month = divmod(local.year * 12 + local.month - 1 + months, 12)
    day = min(local.day, calendar.monthrange(year, month + 1)[1])
    return local.replace(year=year, month=month + 1, day=day, fold=0).astimezone(UTC)


def full_period(
    anchor: datetime, months: int, zone: str, at: datetime
) -> tuple[datetime, datetime]:
    """Of the periods of so many months, counted from the anchor, the one that an instant lies in."""
    n = 0
    while months_later(anchor, (n + 1) * months, zone) <= at:
        n += 1
    return months_later(anchor, n * months, zone), months_later(anchor, (n + 1) * months, zone)


def midnight_before(at: datetime, zone: str) -> datetime:
    """When the day began that an instant lies in."""
    local = at.astimezone(ZoneInfo(zone))
    return local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0).astimezone(UTC)


def midnight_after(at: datetime, zone: str) -> datetime:
    """When the day ends that an instant lies in."""
    next_day = (at.astimezone(ZoneInfo(zone)) + timedelta(days=1)).replace(fold=0)
    return midnight_before(next_day, zone)


def spread(amounts: Sequence[int], part: Fraction) -> list[int]:
    """A share of each amount, all whole, with the sum of the share of all: of a negative sum as of its opposite.

    Each is rounded down; the cents that are missing go to those that lost the most, earlier ones first.
    """
    if sum(amounts) < 0:
        return [-one for one in spread([-amount for amount in amounts], part)]
    exact = [amount * part for amount in amounts]
    parts = [value.__floor__() for value in exact]
    missing = half_away(sum(amounts) * part) - sum(parts)
    losers = sorted(range(len(parts)), key=lambda n: parts[n] - exact[n])
    for n in losers[:missing]:
        parts[n] += 1
    return parts
