"""What subscriptions cost, by a plain model: exact fractions, calendars by hand, nothing of the product but time zones.

A subscription is a list of stretches of time. Each has a metered price and a licensed fee; what happens at a boundary,
a change or an end is written down as it would be with a calculator, and what usage costs says plain_rating.
"""

from __future__ import annotations

import calendar
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from tests.services.plain_rating import Entry, Period, cents, lines, share, true_up

MONTHS = {"month": 1, "quarter": 3, "year": 12}
DAYS = {"day": 1, "week": 7}

# Kind and boundary of an invoice, and the amounts of its lines.
Key = tuple[str, datetime]
Book = dict[Key, list[int]]


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


# A metered price: its model and its numbers.
Metered = tuple[str, Mapping[str, Any]]


@dataclass
class Fees:
    """The licensed side: what a unit costs, with which bounds, since when how many, and whether at a period's end.

    By day they are cut at local midnights.
    """

    config: Mapping[str, str]
    quantities: list[tuple[datetime, int]]
    in_arrears: bool = False
    by_day: bool = False

    def quantity_at(self, at: datetime, *, before: bool = False) -> int:
        known = [q for t, q in self.quantities if (t < at if before else t <= at)]
        return known[-1] if known else self.quantities[0][1]

    def lines(self, quantity: int, period: Period, nominal: Period) -> list[int]:
        """The fee, and what it lacks to the minimum or is above the maximum."""
        part = share(period, nominal)
        fee = cents(Fraction(self.config["amount"]) * quantity * part)
        return [fee, true_up(self.config, fee, part)]

    def given_back(self, quantity: int, period: Period, nominal: Period) -> list[int]:
        return [-amount for amount in self.lines(quantity, period, nominal)]


@dataclass
class Plain:
    """A subscription: since when, by which fees, meter and prices; what was used; when it ended.

    Until `billed_until` another system has billed it.
    """

    start: datetime
    trial_end: datetime | None
    terms: Terms
    fees: Fees
    meter: Mapping[str, Any]
    prices: list[tuple[datetime, Metered]]
    bills_trial: bool = False
    billed_until: datetime | None = None
    canceled: datetime | None = None
    commitment: Fraction | None = None  # what usage and fees of a full period come to at least
    used: list[Entry] = field(default_factory=list)

    @property
    def activation(self) -> datetime:
        return self.trial_end or self.start

    @property
    def trial(self) -> tuple[Period, Period] | None:
        """The time of the trial, and the full period that begins with it, by which a trial's bounds scale."""
        if self.trial_end is None:
            return None
        first = Terms(self.start, self.terms.zone, self.terms.interval)
        end = min(self.trial_end, self.canceled or self.trial_end)
        return (self.start, end), (self.start, first.boundary(1))

    def periods(self, until: datetime) -> Iterator[Period]:
        """The billing periods that have ended, or were ended, by `until`; the last may be running."""
        start = self.billed_until or self.activation
        while start <= until and (self.canceled is None or start < self.canceled):
            end = self.terms.around(start)[1]
            yield start, end
            start = end

    def next_boundary(self, now: datetime) -> datetime:
        """The end of the trial or of the billing period that is running."""
        return self.activation if now < self.activation else self.terms.around(now)[1]

    def cuts(self, start: datetime, end: datetime) -> list[Period]:
        """The usage periods within a trial or a billing period: another price begins another one."""
        changes = [at for at, _ in self.prices[1:] if start < at < end]
        return list(pairwise([start, *changes, end]))

    def usage_periods(self, until: datetime) -> Iterator[Period]:
        if self.trial:
            yield from self.cuts(*self.trial[0])
        if self.billed_until:
            yield from self.cuts(
                self.start, min(self.billed_until, self.canceled or self.billed_until)
            )
        for start, end in self.periods(until):
            yield from self.cuts(start, min(end, self.canceled or end))

    def expected(self, until: datetime) -> Book:
        """The lines of every invoice due by `until`, as sorted amounts without zeros."""
        book: Book = defaultdict(list)
        self._bill_trial(book)
        kind = "activation"
        if self.billed_until:
            kind, book["period", self.billed_until] = "period", []
        for start, end in self.periods(until):
            reached = self._charge(book, (kind, start), (start, end), until)
            over = self.canceled is not None and self.canceled <= end
            last = self.canceled if over and self.canceled else end
            if last <= until:
                key = ("final", last) if over else ("period", end)
                nominal = self.terms.around(start)
                usage = self._usage((start, last), nominal)
                book[key] += usage
                if self.commitment:
                    promised = cents(self.commitment * share((start, last), nominal))
                    book[key].append(max(promised - reached - sum(usage), 0))
            kind = "period"
        return {key: sorted(a for a in amounts if a) for key, amounts in book.items()}

    def _bill_trial(self, book: Book) -> None:
        if self.trial and self.bills_trial:
            period, nominal = self.trial
            over = self.canceled is not None and self.canceled <= self.activation
            book["final" if over else "activation", period[1]] += self._usage(period, nominal)

    def _charge(self, book: Book, key: Key, period: Period, until: datetime) -> int:
        """The fees of a billing period, what changes of the quantity move, and what an end gives back; their sum."""
        (start, end), fees = period, self.fees
        nominal = self.terms.around(start)
        over = self.canceled is not None and self.canceled <= end
        last = self.canceled if over and self.canceled else end
        changes = [
            (at, self._change_cut(at, start), fees.quantity_at(at, before=True), quantity)
            for at, quantity in fees.quantities[1:]
            if start < at < last
        ]
        stop = min(midnight(last, self.terms.zone, 1), end) if over and fees.by_day else last
        charged: Book = defaultdict(list)
        if fees.in_arrears:
            if last <= until:
                ends = [*(cut for _, cut, _, _ in changes), stop]
                begins = [start, *ends[:-1]]
                quantities = [fees.quantity_at(start), *(new for *_, new in changes)]
                for quantity, a, b in zip(quantities, begins, ends, strict=True):
                    charged["final" if over else "period", last] += fees.lines(
                        quantity, (a, b), nominal
                    )
        else:
            charged[key] += fees.lines(fees.quantity_at(start), period, nominal)
            for at, cut, old, new in changes:
                charged["change", at] += fees.given_back(old, (cut, end), nominal)
                charged["change", at] += fees.lines(new, (cut, end), nominal)
            if over and last <= until:
                left = fees.quantity_at(last)
                charged["final", last] += fees.given_back(left, (stop, end), nominal)
        for bill, amounts in charged.items():
            book[bill] += amounts
        return sum(sum(amounts) for amounts in charged.values())

    def _change_cut(self, at: datetime, start: datetime) -> datetime:
        """The day of a change has the new quantity."""
        return max(midnight(at, self.terms.zone), start) if self.fees.by_day else at

    def _usage(self, period: Period, nominal: Period) -> list[int]:
        amounts: list[int] = []
        for start, end in self.cuts(*period):
            price = [price for at, price in self.prices if at <= start][-1]
            found, bound = lines(self.meter, price, self.used, (start, end), nominal)
            amounts += [*found.values(), bound]
        return amounts
