"""Proration: shares add up to one, and a change and its reverse net to zero."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from billing.domain.money import Money
from billing.domain.period import Interval, Period, Schedule
from billing.domain.proration import (
    Granularity,
    cancel_cut,
    change_cut,
    change_lines,
    partial_cost,
    unused_credit,
    unused_share,
)

JANUARY = Period(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
prices = st.integers(0, 10**9).map(lambda n: Fraction(n, 1000))
shares = st.fractions(0, 1, max_denominator=10**6)
moments = st.datetimes(
    datetime(2024, 1, 1),  # noqa: DTZ001 - hypothesis wants it so, and adds the zone
    datetime(2024, 12, 31),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(st.lists(moments, max_size=6), st.sampled_from(["UTC", "Europe/Vienna", "Asia/Beirut"]))
def test_the_parts_of_a_period_sum_to_one(cuts: list[datetime], zone: str) -> None:
    nominal = Schedule(JANUARY.start, zone, Interval.YEAR).nth(0)
    edges = sorted({nominal.start, nominal.end, *(c for c in cuts if nominal.contains(c))})
    parts = [Period(a, b) for a, b in pairwise(edges)]
    assert sum((part.share_of(nominal) for part in parts), Fraction(0)) == 1


@given(prices, prices, shares)
def test_an_upgrade_and_its_reverse_net_to_zero(
    old: Fraction, new: Fraction, unused: Fraction
) -> None:
    up = change_lines(old, new, unused, "EUR")
    down = change_lines(new, old, unused, "EUR")
    assert up.net + down.net == Money.zero("EUR")
    assert up.credit == -down.debit


@given(prices, moments)
def test_what_was_used_and_what_is_credited_make_the_price(price: Fraction, at: datetime) -> None:
    unused = unused_share(JANUARY, at)
    assert 0 <= unused <= 1
    used, _ = JANUARY.cut(at)
    cost = partial_cost(price, used, JANUARY, "EUR") if used else Money.zero("EUR")
    left = Money.of_exact(price, "EUR") + unused_credit(price, unused, "EUR")
    assert abs(left.minor_units - cost.minor_units) <= 1


def test_by_day_a_change_cuts_before_its_day_and_a_cancellation_after() -> None:
    noon = datetime(2024, 7, 15, 10, 30, tzinfo=UTC)
    midnight = datetime(2024, 7, 14, 22, tzinfo=UTC)
    assert change_cut(noon, Granularity.DAY, "Europe/Vienna") == midnight
    assert cancel_cut(noon, Granularity.DAY, "Europe/Vienna") == midnight + timedelta(days=1)
    for cut in (change_cut, cancel_cut):
        assert cut(noon, Granularity.SECOND, "Europe/Vienna") == noon


def test_a_published_change_of_the_month_gives_its_lines() -> None:
    at = datetime(2024, 1, 21, tzinfo=UTC)
    lines = change_lines(Fraction(31), Fraction(62), unused_share(JANUARY, at), "EUR")
    assert (lines.credit, lines.debit) == (Money(-1100, "EUR"), Money(2200, "EUR"))


def test_a_cut_outside_of_the_period_leaves_all_or_nothing() -> None:
    assert unused_share(JANUARY, JANUARY.start) == 1
    assert unused_share(JANUARY, JANUARY.start - timedelta(days=1)) == 1
    assert unused_share(JANUARY, JANUARY.end) == 0
