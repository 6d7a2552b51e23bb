"""The arithmetic of the plain model of billing: rounding, months, and how an amount is spread."""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction


def half_away(value: Fraction) -> int:
    """The nearest whole number; a half goes away from zero."""
    size = int(abs(value) + Fraction(1, 2))
    return -size if value < 0 else size


def months_later(anchor: datetime, months: int) -> datetime:
    """The same day of a later month, or its last."""
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    day = min(anchor.day, calendar.monthrange(year, month + 1)[1])
    return anchor.replace(year=year, month=month + 1, day=day)


def spread(amounts: Sequence[int], share: Fraction) -> list[int]:
    """A share of each amount, all whole, with the sum of the share of all: of a negative sum as of its opposite.

    Each is rounded down; the cents that are missing go to those that lost the most, earlier ones first.
    """
    if sum(amounts) < 0:
        return [-part for part in spread([-amount for amount in amounts], share)]
    exact = [amount * share for amount in amounts]
    parts = [value.__floor__() for value in exact]
    missing = half_away(sum(amounts) * share) - sum(parts)
    losers = sorted(range(len(parts)), key=lambda n: parts[n] - exact[n])
    for n in losers[:missing]:
        parts[n] += 1
    return parts
