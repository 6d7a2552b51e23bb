"""Invoice path: what a part of a period costs, and what a change in its midst moves.

Invariant: the shares of a period's parts add up to one; a change and its reverse at one instant
net to zero, line by line. A partial period costs price x its length / length of the full nominal
period it is cut from (design section 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from fractions import Fraction

from billing.domain.money import Money
from billing.domain.period import Period, local_midnight, next_local_midnight, to_utc


class Granularity(StrEnum):
    """To what instants a plan cuts its periods."""

    SECOND = "second"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class ChangeLines:
    """The two lines of a change: unused time of the old price back, the rest of the new one."""

    credit: Money
    debit: Money

    @property
    def net(self) -> Money:
        """What the change costs, or gives back when negative."""
        return self.credit + self.debit


def change_cut(at: datetime, granularity: Granularity, zone: str) -> datetime:
    """Where a change at `at` cuts: by day, at the midnight before; that day has the new price."""
    if granularity is Granularity.SECOND:
        return to_utc(at)
    return local_midnight(at, zone)


def cancel_cut(at: datetime, granularity: Granularity, zone: str) -> datetime:
    """Where a cancellation at `at` cuts: by day, at the midnight after; that day is billed."""
    if granularity is Granularity.SECOND:
        return to_utc(at)
    return next_local_midnight(at, zone)


def unused_share(nominal: Period, cut: datetime) -> Fraction:
    """How much of the full period lies from `cut` on: 1 before its start, 0 after its end."""
    _, after = nominal.cut(cut)
    return after.share_of(nominal) if after is not None else Fraction(0)


def partial_cost(price: Fraction, part: Period, nominal: Period, currency: str) -> Money:
    """The cost of `part`, rounded once; `price` is exact major units for the full period."""
    return Money.of_exact(price * part.share_of(nominal), currency)


def unused_credit(price: Fraction, unused: Fraction, currency: str) -> Money:
    """The negative line that gives an advance fee back for its unused share."""
    return -Money.of_exact(price * unused, currency)


def change_lines(
    old: Fraction,
    new: Fraction,
    unused: Fraction,
    currency: str,
    *,
    new_share: Fraction | None = None,
) -> ChangeLines:
    """An advance fee of `old` changed to `new`, with `unused` of the full period still to come.

    A change of interval gives `new_share`, the share of the first new period in its own full one:
    the anchor's day stays unless a new anchor is given, so that period may be partial.
    """
    share = unused if new_share is None else new_share
    return ChangeLines(unused_credit(old, unused, currency), Money.of_exact(new * share, currency))
