"""Periods: anchors tile time without gap or overlap, across zones and clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.domain.errors import Invalid, InvalidPeriod, InvalidTimeZone
from billing.domain.period import (
    Interval,
    Period,
    Schedule,
    calendar_anchor,
    local_midnight,
    next_local_midnight,
    time_zone,
)

# Half-hour and double shifts, clock changes at midnight, no shifts, days skipped whole.
ZONES = [
    "UTC",
    "Europe/Vienna",
    "America/New_York",
    "America/Sao_Paulo",
    "America/Havana",
    "Asia/Beirut",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Antarctica/Troll",
    "America/St_Johns",
]
zones = st.sampled_from(ZONES)
instants = st.datetimes(
    datetime(1995, 1, 1),  # noqa: DTZ001 - hypothesis wants it so, and adds the zone
    datetime(2040, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
intervals = st.sampled_from(list(Interval))


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # year, month, day, ...


def dates(anchor: datetime, interval: Interval, count: int, zone: str = "UTC") -> list[str]:
    schedule = Schedule(anchor, zone, interval)
    local = [schedule.boundary(n).astimezone(time_zone(zone)) for n in range(1, count + 1)]
    return [at.date().isoformat() for at in local]


@pytest.mark.parametrize(
    ("anchor", "interval", "expected"),
    [
        (utc(2023, 1, 31), Interval.MONTH, ["2023-02-28", "2023-03-31", "2023-04-30"]),
        (utc(2024, 1, 31), Interval.MONTH, ["2024-02-29", "2024-03-31", "2024-04-30"]),
        (utc(2023, 11, 30), Interval.QUARTER, ["2024-02-29", "2024-05-30", "2024-08-30"]),
        (utc(2024, 2, 29), Interval.YEAR, ["2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29"]),
        (utc(2024, 2, 26), Interval.WEEK, ["2024-03-04", "2024-03-11"]),
        (utc(2024, 2, 28), Interval.DAY, ["2024-02-29", "2024-03-01"]),
    ],
)
def test_the_day_is_clamped_and_comes_back(
    anchor: datetime, interval: Interval, expected: list[str]
) -> None:
    assert dates(anchor, interval, len(expected)) == expected


@given(instants, zones, intervals, st.integers(1, 14), instants)
def test_periods_tile_time_without_gap_or_overlap(
    anchor: datetime, zone: str, interval: Interval, count: int, at: datetime
) -> None:
    schedule = Schedule(anchor, zone, interval, count)
    period = schedule.containing(at)
    assert period.contains(at)
    after = schedule.following(period)
    assert after.start == period.end
    assert schedule.containing(period.end - timedelta(microseconds=1)) == period
    assert schedule.containing(anchor).start == anchor
    # The local time of day is the anchor's, but where a clock change skips it.
    start = period.start.astimezone(time_zone(zone))
    wanted = anchor.astimezone(time_zone(zone))
    exists = wanted.time() == start.time()
    jumped = (
        start.utcoffset()
        != (period.start - timedelta(hours=3)).astimezone(time_zone(zone)).utcoffset()
    )
    assert exists or jumped


@given(instants, zones, intervals, st.integers(-30, 30))
def test_boundaries_never_go_back(anchor: datetime, zone: str, interval: Interval, n: int) -> None:
    schedule = Schedule(anchor, zone, interval)
    assert schedule.boundary(n) <= schedule.boundary(n + 1)
    assert schedule.boundary(n) < schedule.boundary(n + 2)


def test_a_local_day_has_23_or_25_hours_at_a_clock_change() -> None:
    schedule = Schedule(utc(2024, 3, 29, 23), "Europe/Vienna", Interval.DAY)
    hours = [schedule.nth(n).microseconds // 3_600_000_000 for n in range(3)]
    assert hours == [24, 23, 24]
    autumn = Schedule(utc(2024, 10, 26, 22), "Europe/Vienna", Interval.DAY)
    assert autumn.nth(0).microseconds // 3_600_000_000 == 25


def test_a_skipped_local_time_moves_by_the_jump_and_a_doubled_one_is_the_first() -> None:
    spring = Schedule(utc(2024, 3, 30, 1, 30), "Europe/Vienna", Interval.DAY)  # 02:30 local
    assert spring.boundary(1) == utc(2024, 3, 31, 1, 30)  # 03:30 local
    assert spring.boundary(2) == utc(2024, 4, 1, 0, 30)  # 02:30 local again
    autumn = Schedule(utc(2024, 10, 26, 0, 30), "Europe/Vienna", Interval.DAY)  # 02:30 local
    assert autumn.boundary(1) == utc(2024, 10, 27, 0, 30)  # the first 02:30


def test_an_anchor_in_the_second_of_two_equal_hours_is_kept() -> None:
    second = utc(2024, 10, 27, 1, 30)
    schedule = Schedule(second, "Europe/Vienna", Interval.DAY)
    assert schedule.boundary(0) == second
    assert schedule.containing(second).start == second
    assert schedule.containing(second - timedelta(microseconds=1)).end == second


def test_a_day_that_the_zone_skipped_has_no_period_and_leaves_no_gap() -> None:
    schedule = Schedule(utc(2011, 12, 28, 10), "Pacific/Apia", Interval.DAY)
    period = schedule.containing(utc(2011, 12, 29, 12))
    assert schedule.following(period).start == period.end
    assert schedule.following(period).contains(period.end)


@given(instants, zones, intervals)
def test_calendar_alignment_starts_at_a_local_midnight_at_or_before(
    at: datetime, zone: str, interval: Interval
) -> None:
    anchor = calendar_anchor(at, zone, interval)
    assert anchor <= at
    period = Schedule(anchor, zone, interval).containing(at)
    assert period.contains(at)
    assert local_midnight(at, zone) <= at < next_local_midnight(at, zone)
    assert local_midnight(anchor, zone) == anchor


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval.DAY, utc(2024, 5, 15, 22)),
        (Interval.WEEK, utc(2024, 5, 12, 22)),
        (Interval.MONTH, utc(2024, 4, 30, 22)),
        (Interval.QUARTER, utc(2024, 3, 31, 22)),
        (Interval.YEAR, utc(2023, 12, 31, 23)),
    ],
)
def test_calendar_alignment_is_local(interval: Interval, expected: datetime) -> None:
    assert calendar_anchor(utc(2024, 5, 16, 12), "Europe/Vienna", interval) == expected


def test_the_end_belongs_to_the_next_period() -> None:
    period = Period(utc(2024, 1, 1), utc(2024, 2, 1))
    assert period.contains(period.start)
    assert not period.contains(period.end)
    assert period.is_due(period.end)
    assert not period.is_due(period.end - timedelta(microseconds=1))


@given(instants, st.timedeltas(timedelta(microseconds=1), timedelta(days=400)), instants)
def test_a_cut_loses_and_doubles_nothing(start: datetime, length: timedelta, at: datetime) -> None:
    period = Period(start, start + length)
    parts = [part for part in period.cut(at) if part is not None]
    assert sum((part.share_of(period) for part in parts), Fraction(0)) == 1
    assert parts[0].start == period.start
    assert parts[-1].end == period.end
    assert all(period.clip(part) == part for part in parts)


def test_a_period_is_in_utc_and_never_empty() -> None:
    east = timezone(timedelta(hours=2))
    assert Period(datetime(2024, 1, 1, tzinfo=east), utc(2024, 2, 1)).start == utc(2023, 12, 31, 22)
    with pytest.raises(InvalidPeriod):
        Period(utc(2024, 1, 1), utc(2024, 1, 1))
    with pytest.raises(InvalidPeriod, match="time zone"):
        Period(datetime(2024, 1, 1), utc(2024, 2, 1))  # noqa: DTZ001 - the wrong input


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "../../etc/passwd", "Europe", "x" * 5000, "a\0b"]
)
def test_an_unknown_time_zone_is_refused(name: str) -> None:
    with pytest.raises(InvalidTimeZone):
        Schedule(utc(2024, 1, 1), name, Interval.MONTH)


def test_a_schedule_has_its_limits() -> None:
    with pytest.raises(Invalid):
        Schedule(utc(2024, 1, 1), "UTC", Interval.MONTH, 0)
    schedule = Schedule(utc(2024, 1, 1), "UTC", Interval.YEAR)
    for n in (9000, -3000, 10**12):
        with pytest.raises(InvalidPeriod):
            schedule.boundary(n)
