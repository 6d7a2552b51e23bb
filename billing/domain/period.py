"""Invoice path: periods and the anchor they are counted from.

Invariant: [start, end) periods of one schedule tile time without gap or overlap, across months of
any length and daylight-saving changes. Period n is anchor + n intervals, never previous end + 1
interval (design sections 6 and 8).
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from billing.domain.errors import Invalid, InvalidPeriod, InvalidTimeZone

INTERVAL_COUNT_MAX: Final = 366
ZONE_LENGTH_MAX: Final = 64
DAY_OF_MONTH_MAX: Final = 31
_MICROSECOND: Final = timedelta(microseconds=1)


def to_utc(instant: datetime, *, path: str = "time") -> datetime:
    """The same instant in UTC; one without a time zone is refused, never taken for UTC."""
    if instant.tzinfo is None:
        raise InvalidPeriod.field(path, "give the instant with its time zone.")
    return instant.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Period:
    """Half-open [start, end), in UTC, never empty."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", to_utc(self.start, path="start"))
        object.__setattr__(self, "end", to_utc(self.end, path="end"))
        if self.start >= self.end:
            raise InvalidPeriod.field("end", f"the end must come after {self.start.isoformat()}.")

    @property
    def microseconds(self) -> int:
        """The length: elapsed time, so a day of a clock change has 23 or 25 hours."""
        return (self.end - self.start) // _MICROSECOND

    def contains(self, instant: datetime) -> bool:
        """Whether `instant` falls in it; the end belongs to the next period."""
        return self.start <= instant < self.end

    def is_due(self, now: datetime) -> bool:
        """Whether it is over."""
        return now >= self.end

    def clip(self, other: Period) -> Period | None:
        """The part inside `other`, None when there is none."""
        start, end = max(self.start, other.start), min(self.end, other.end)
        return Period(start, end) if start < end else None

    def cut(self, at: datetime) -> tuple[Period | None, Period | None]:
        """What lies before `at` and what from it on; None for a side that is empty."""
        instant = to_utc(at, path="at")
        before = Period(self.start, min(instant, self.end)) if instant > self.start else None
        after = Period(max(instant, self.start), self.end) if instant < self.end else None
        return before, after

    def share_of(self, nominal: Period) -> Fraction:
        """This length as an exact share of the full nominal period it is cut from."""
        return Fraction(self.microseconds, nominal.microseconds)


class Interval(StrEnum):
    """The unit in which a price recurs."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


_DAYS: Final = {Interval.DAY: 1, Interval.WEEK: 7}
_MONTHS: Final = {Interval.MONTH: 1, Interval.QUARTER: 3, Interval.YEAR: 12}


@lru_cache(maxsize=1024)
def time_zone(name: str) -> ZoneInfo:
    """The IANA zone of that name, or InvalidTimeZone."""
    try:
        if not 0 < len(name) <= ZONE_LENGTH_MAX:
            raise ZoneInfoNotFoundError(name[:ZONE_LENGTH_MAX])
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidTimeZone.field(
            "time_zone", f"{name[:ZONE_LENGTH_MAX]!r} is unknown; write one like Europe/Vienna."
        ) from error


@dataclass(frozen=True, slots=True)
class Schedule:
    """Periods of `interval_count` intervals, counted from `anchor` in the customer's zone.

    Every boundary has the anchor's local time of day and its day of the month, clamped to the
    month's last (Jan 31, Feb 28, Mar 31). A local time that a clock change skips is taken as much
    later as the clock jumped; of one that comes twice, the first counts (as java.time and
    PostgreSQL do), except that boundary 0 is the anchor itself.
    """

    anchor: datetime
    zone: str
    interval: Interval
    interval_count: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchor", to_utc(self.anchor, path="anchor"))
        if not 1 <= self.interval_count <= INTERVAL_COUNT_MAX:
            raise Invalid.field("interval_count", f"give a number from 1 to {INTERVAL_COUNT_MAX}.")
        time_zone(self.zone)

    def boundary(self, n: int) -> datetime:
        """The start of period n, in UTC; n may be negative."""
        if n == 0:
            return self.anchor
        zone = time_zone(self.zone)
        try:
            local = _moved(self.anchor.astimezone(zone), self.interval, n * self.interval_count)
            return local.replace(tzinfo=zone, fold=0).astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise InvalidPeriod(f"Period {n} lies outside the years 1 to 9999.") from error

    def nth(self, n: int) -> Period:
        """Period n: boundary n to boundary n + 1."""
        return Period(self.boundary(n), self.boundary(n + 1))

    def index_at(self, instant: datetime) -> int:
        """The n whose period contains `instant`.

        A day that the zone skipped whole (Samoa had no 30 December 2011) has an empty period,
        which contains nothing and is passed over.
        """
        at = to_utc(instant, path="instant")
        n = self._estimate(at)
        while self.boundary(n) > at:
            n -= 1
        while self.boundary(n + 1) <= at:
            n += 1
        return n

    def containing(self, instant: datetime) -> Period:
        """The period that contains `instant`: the full nominal one, never a part."""
        return self.nth(self.index_at(instant))

    def following(self, period: Period) -> Period:
        """The period that begins where `period` ends."""
        return self.containing(period.end)

    def _estimate(self, at: datetime) -> int:
        zone = time_zone(self.zone)
        then, start = at.astimezone(zone), self.anchor.astimezone(zone)
        if self.interval in _DAYS:
            days = (then.date() - start.date()).days
            return days // (_DAYS[self.interval] * self.interval_count)
        months = (then.year - start.year) * 12 + then.month - start.month
        return months // (_MONTHS[self.interval] * self.interval_count)


def _moved(local: datetime, interval: Interval, count: int) -> datetime:
    """`count` intervals later on the calendar, as wall time without a zone."""
    wall = local.replace(tzinfo=None)
    if interval in _DAYS:
        return wall + timedelta(days=count * _DAYS[interval])
    index = wall.year * 12 + wall.month - 1 + count * _MONTHS[interval]
    year, month = divmod(index, 12)
    if not 1 <= year <= 9999:
        raise ValueError(year)
    day = min(wall.day, calendar.monthrange(year, month + 1)[1])
    return wall.replace(year=year, month=month + 1, day=day)


def local_midnight(instant: datetime, zone: str) -> datetime:
    """The start of the local day that contains `instant`, in UTC."""
    place = time_zone(zone)
    local = to_utc(instant).astimezone(place)
    return local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0).astimezone(UTC)


def next_local_midnight(instant: datetime, zone: str) -> datetime:
    """The start of the local day after the one that contains `instant`, in UTC."""
    place = time_zone(zone)
    day = to_utc(instant).astimezone(place).date() + timedelta(days=1)
    return datetime(day.year, day.month, day.day, tzinfo=place).astimezone(UTC)


def calendar_anchor(instant: datetime, zone: str, interval: Interval) -> datetime:
    """Calendar alignment: local midnight of the day, Monday, month, quarter or year of `instant`.

    The first paid period of such a subscription is the part after `instant`, prorated.
    """
    place = time_zone(zone)
    day = to_utc(instant).astimezone(place).date()
    match interval:
        case Interval.DAY:
            pass
        case Interval.WEEK:
            day -= timedelta(days=day.weekday())
        case Interval.MONTH:
            day = day.replace(day=1)
        case Interval.QUARTER:
            day = day.replace(month=day.month - (day.month - 1) % 3, day=1)
        case Interval.YEAR:
            day = day.replace(month=1, day=1)
    return datetime(day.year, day.month, day.day, tzinfo=place).astimezone(UTC)


def day_anchor(instant: datetime, zone: str, day: int) -> datetime:
    """Periods that begin on a day of the month: its local midnight in the last month up to `instant` that has it.

    So a schedule from it clamps the 31st to each shorter month's last day.
    """
    if not 1 <= day <= DAY_OF_MONTH_MAX:
        raise Invalid.field("anchor_day", f"give a day from 1 to {DAY_OF_MONTH_MAX}.")
    place = time_zone(zone)
    first = to_utc(instant).astimezone(place).date().replace(day=1)
    while calendar.monthrange(first.year, first.month)[1] < day:
        first = (first - timedelta(days=1)).replace(day=1)
    return datetime(first.year, first.month, day, tzinfo=place).astimezone(UTC)
