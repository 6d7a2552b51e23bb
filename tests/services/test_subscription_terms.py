"""The stretches of a subscription tile its time, however and whenever they are asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import islice, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from billing.domain.period import Interval
from billing.services.subscription_terms import Alignment, Terms

ZONES = [
    "UTC",
    "America/New_York",
    "Europe/Vienna",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "Australia/Lord_Howe",
]

FIRST = datetime(2009, 1, 1, tzinfo=UTC)


@st.composite
def terms(draw: st.DrawFn) -> Terms:
    start = FIRST + draw(st.timedeltas(timedelta(0), timedelta(days=20 * 365)))
    trial = draw(st.none() | st.timedeltas(timedelta(microseconds=1), timedelta(days=400)))
    return Terms(
        start,
        None if trial is None else start + trial,
        draw(st.sampled_from(Alignment)),
        draw(st.sampled_from(ZONES)),
        draw(st.sampled_from(Interval)),
    )


@given(terms())
@settings(max_examples=150)
def test_usage_periods_tile_time_from_the_start_on(made: Terms) -> None:
    stretches = list(islice(made.stretches(), 15))
    assert stretches[0].period.start == made.start_at
    for one, following in pairwise(stretches):
        assert one.period.end == following.period.start


@given(terms())
@settings(max_examples=150)
def test_only_the_trial_is_not_billed_and_the_rest_at_its_own_end(made: Terms) -> None:
    for stretch in islice(made.stretches(), 15):
        if stretch.period.end == made.trial_end_at:
            assert stretch.billed_at is None
        else:
            assert stretch.billed_at == stretch.period.end


@given(terms(), st.integers(0, 12))
@settings(max_examples=150)
def test_a_period_opened_on_its_own_is_the_one_that_was_planned(made: Terms, place: int) -> None:
    paid = [stretch for stretch in islice(made.stretches(), 16) if stretch.billed_at]
    start = paid[place].period.start
    assert made.two_from(start) == paid[place : place + 2]
    assert made.paid_from(start) == paid[place].period


@given(terms())
@settings(max_examples=150)
def test_every_paid_period_but_a_calendars_first_is_whole(made: Terms) -> None:
    paid = [stretch.period for stretch in islice(made.stretches(), 8) if stretch.billed_at]
    shares = [period.share_of(made.schedule.containing(period.start)) for period in paid]
    assert 0 < shares[0] <= 1
    assert set(shares[1:]) == {Fraction(1)}
    if made.alignment is Alignment.ANNIVERSARY:
        assert shares[0] == 1
        assert made.schedule.anchor == made.activation_at
