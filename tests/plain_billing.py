"""What subscriptions cost, by a plain model: exact fractions, calendars by hand, nothing of the product but time zones.

A subscription is a list of stretches of time. Each has a price per unit and a licensed fee; what happens at a boundary,
a change or an end is written down as it would be with a calculator.
"""

from __future__ import annotations

import calendar
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

MONTHS = {"month": 1, "quarter": 3, "year": 12}
DAYS = {"day": 1, "week": 7}

# What a quantity costs, of a group value where the meter groups.
Rate = Callable[[Fraction, str], Fraction]


def cents(major: Fraction) -> int:
    """Rounded half away from zero to two decimals, in cents."""
    scaled = abs(major) * 100
    whole = (2 * scaled + 1) // 2
    return int(whole if major >= 0 else -whole)


def per_unit(price: str) -> Rate:
    return lambda quantity, _: quantity * Fraction(price)


def graduated(upto: int, first: str, beyond: str) -> Rate:
    def rate(quantity: Fraction, _: str) -> Fraction:
        low = min(quantity, Fraction(upto))
        return low * Fraction(first) + max(quantity - upto, Fraction(0)) * Fraction(beyond)

    return rate


def packages(size: int, price: str) -> Rate:
    return lambda quantity, _: -(-quantity // size) * Fraction(price)


def volume(upto: int, first: str, beyond: str) -> Rate:
    return lambda quantity, _: quantity * Fraction(first if quantity <= upto else beyond)


def percentage(percent: str) -> Rate:
    return lambda quantity, _: quantity * Fraction(percent) / 100


def matrix(cells: dict[str, str], default: str) -> Rate:
    return lambda quantity, region: quantity * Fraction(cells.get(region, default))


def midnight(at: datetime, zone: str, days: int = 0) -> datetime:
    """The start of the local day of an instant, or of a day some days later."""
    day = at.astimezone(ZoneInfo(zone)).date() + timedelta(days=days)
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def calendar_start(at: datetime, zone: str, interval: str) -> datetime:
    """Where the calendar's day, week, month, quarter or year of an instant begins."""
    day = at.astimezone(ZoneInfo(zone)).date()
    if interval == "week":
        day -= timedelta(days=day.weekday())
    elif interval in MONTHS:
        length = MONTHS[interval]
        day = day.replace(month=(day.month - 1) // length * length + 1, day=1)
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def last_31st(at: datetime, zone: str) -> datetime:
    """The start of day 31 in the last month up to an instant's that has one."""
    day = at.astimezone(ZoneInfo(zone)).date().replace(day=1)
    while calendar.monthrange(day.year, day.month)[1] < 31:
        day = (day - timedelta(days=1)).replace(day=1)
    return datetime(day.year, day.month, 31, tzinfo=ZoneInfo(zone)).astimezone(UTC)


@dataclass(frozen=True)
class Terms:
    """Where periods begin: counted from `anchor` in local time, by calendar units."""

    anchor: datetime
    zone: str
    interval: str

    def boundary(self, n: int) -> datetime:
        """Boundary n: the anchor's wall time, its day clamped; skipped hours move on, doubled ones count first."""
        return _boundary(self, n)

    def around(self, at: datetime) -> tuple[datetime, datetime]:
        """The nominal period that contains an instant."""
        days = DAYS.get(self.interval) or 28 * MONTHS[self.interval]
        n = (at - self.anchor).days // days + 1
        while self.boundary(n) > at:
            n -= 1
        return self.boundary(n), self.boundary(n + 1)


@cache
def _boundary(terms: Terms, n: int) -> datetime:
    if n == 0:
        return terms.anchor
    wall = terms.anchor.astimezone(ZoneInfo(terms.zone)).replace(tzinfo=None)
    if terms.interval in DAYS:
        wall += timedelta(days=n * DAYS[terms.interval])
    else:
        month = wall.year * 12 + wall.month - 1 + n * MONTHS[terms.interval]
        year, month = month // 12, month % 12 + 1
        day = min(wall.day, calendar.monthrange(year, month)[1])
        wall = wall.replace(year=year, month=month, day=day)
    return wall.replace(tzinfo=ZoneInfo(terms.zone)).astimezone(UTC)


@dataclass
class Plain:
    """A subscription: since when, with which fee, rate and minimum; what changed; when it ended."""

    start: datetime
    trial_end: datetime | None
    terms: Terms
    fee: Fraction
    rates: list[tuple[datetime, Rate]]
    minimums: list[tuple[datetime, Fraction]]
    quantities: list[tuple[datetime, int]] = field(default_factory=list)
    canceled: datetime | None = None
    used: list[tuple[datetime, Fraction, str]] = field(default_factory=list)
    by_day: bool = False  # fees are cut at local midnights

    @property
    def activation(self) -> datetime:
        return self.trial_end or self.start

    def periods(self, until: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The billing periods that have ended, or were ended, by `until`; the last may be running."""
        start = self.activation
        while start <= until and (self.canceled is None or start < self.canceled):
            end = self.terms.around(start)[1]
            yield start, end
            start = end

    def cuts(self, start: datetime, end: datetime) -> list[datetime]:
        """Where usage periods begin and end within a billing period."""
        changes = [at for at, _ in self.rates[1:] if start < at < end]
        return [start, *changes, end]

    def usage_periods(self, until: datetime) -> Iterator[tuple[datetime, datetime]]:
        if self.trial_end is not None:
            yield self.start, min(self.trial_end, self.canceled or self.trial_end)
        for start, end in self.periods(until):
            yield from pairwise(self.cuts(start, min(end, self.canceled or end)))

    def quantity_at(self, at: datetime, *, before: bool = False) -> int:
        known = [q for t, q in self.quantities if (t < at if before else t <= at)]
        return known[-1] if known else self.quantities[0][1]

    def expected(self, until: datetime) -> dict[tuple[str, datetime], list[int]]:
        """The lines of every invoice due by `until`, as sorted amounts without zeros."""
        book: dict[tuple[str, datetime], list[int]] = defaultdict(list)
        kind = "activation"
        for start, end in self.periods(until):
            nominal = self.terms.around(start)
            over = self.canceled is not None and self.canceled <= end
            last = self.canceled if over and self.canceled else end
            self._fee(book, (kind, start), start, end, nominal)
            for at, quantity in self.quantities[1:]:
                if start < at < last:
                    old = self.quantity_at(at, before=True)
                    cut = max(midnight(at, self.terms.zone), start) if self.by_day else at
                    share = _share(cut, end, nominal)
                    book["change", at] += [
                        -cents(self.fee * old * share),
                        cents(self.fee * quantity * share),
                    ]
            if last <= until:
                key = ("final", last) if over else ("period", end)
                book[key] += self._usage(start, last, nominal)
                if over:
                    cut = min(midnight(last, self.terms.zone, 1), end) if self.by_day else last
                    rest = self.fee * self.quantity_at(last) * _share(cut, end, nominal)
                    book[key].append(-cents(rest))
            kind = "period"
        return {key: sorted(a for a in amounts if a) for key, amounts in book.items()}

    def _fee(
        self,
        book: dict[tuple[str, datetime], list[int]],
        key: tuple[str, datetime],
        start: datetime,
        end: datetime,
        nominal: tuple[datetime, datetime],
    ) -> None:
        book[key].append(cents(self.fee * self.quantity_at(start) * _share(start, end, nominal)))

    def _usage(
        self, start: datetime, end: datetime, nominal: tuple[datetime, datetime]
    ) -> list[int]:
        amounts = []
        for a, b in pairwise(self.cuts(start, end)):
            rate = [r for at, r in self.rates if at <= a][-1]
            groups: dict[str, Fraction] = defaultdict(Fraction)
            for at, quantity, region in self.used:
                if a <= at < b:
                    groups[region] += quantity
            lines = [cents(rate(quantity, region)) for region, quantity in groups.items()]
            lines = lines or [cents(rate(Fraction(0), ""))]
            minimum = [m for at, m in self.minimums if at <= a][-1]
            least = cents(minimum * _share(a, b, nominal))
            amounts += lines
            if sum(lines) < least:
                amounts.append(least - sum(lines))
        return amounts


def _share(start: datetime, end: datetime, nominal: tuple[datetime, datetime]) -> Fraction:
    second = timedelta(microseconds=1)
    return Fraction((end - start) // second, (nominal[1] - nominal[0]) // second)
