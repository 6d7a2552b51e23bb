"""Backoff: bounded, growing, and never shorter than a receiver asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.domain.backoff import (
    RETRY_AFTER_MAX_S,
    WEBHOOK_ATTEMPTS_MAX,
    WEBHOOK_SCHEDULE_S,
    ExponentialBackoff,
    parse_retry_after,
    webhook_delay,
)
from billing.domain.errors import Invalid

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
permille = st.integers(0, 1000)


def test_the_schedule_is_the_published_one() -> None:
    delays = [webhook_delay(n, jitter_permille=0) for n in range(WEBHOOK_ATTEMPTS_MAX)]
    minutes, hours = 60, 3600
    expected = [0, 5, 5 * minutes, 30 * minutes, *(h * hours for h in (2, 5, 10, 14, 20, 24))]
    assert delays == [timedelta(seconds=s) for s in expected]
    assert webhook_delay(WEBHOOK_ATTEMPTS_MAX, jitter_permille=0) is None


@given(st.integers(0, WEBHOOK_ATTEMPTS_MAX - 1), permille, st.none() | st.integers(0, 10**9))
def test_a_delay_is_the_schedules_plus_a_fifth_at_most_or_what_was_asked_for(
    attempts: int, jitter: int, asked: int | None
) -> None:
    delay = webhook_delay(attempts, jitter_permille=jitter, retry_after_s=asked)
    assert delay is not None
    base = timedelta(seconds=WEBHOOK_SCHEDULE_S[attempts])
    wanted = timedelta(seconds=min(asked or 0, RETRY_AFTER_MAX_S))
    assert delay >= max(base, wanted)
    assert delay <= max(base * 6 / 5, wanted)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120),
        (" 7 ", 7),
        ("-5", None),
        ("soon", None),
        ("1e9", None),
        ("99999999999999999999", None),
        ("Wed, 01 May 2024 12:00:30 GMT", 30),
        ("Wed, 01 May 2024 11:00:00 GMT", 0),
        ("Wed, 01 May 2024 12:00:30 -0000", None),
        ("Wed, 99 May 2024 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: int | None) -> None:
    assert parse_retry_after(header, NOW) == seconds


@given(st.text(max_size=60))
def test_no_header_of_a_stranger_breaks_the_sender(header: str) -> None:
    seconds = parse_retry_after(header, NOW)
    assert seconds is None or seconds >= 0


@given(st.integers(1, 10**4), st.integers(1, 10**6), st.integers(0, 10**6), permille)
def test_exponential_backoff_stays_between_half_the_base_and_the_cap(
    base: int, more: int, failures: int, jitter: int
) -> None:
    backoff = ExponentialBackoff(base_ms=base, cap_ms=base + more)
    delay = backoff.delay(failures, jitter_permille=jitter)
    assert timedelta(milliseconds=base) / 2 <= delay <= timedelta(milliseconds=base + more)
    assert delay <= backoff.delay(failures + 1, jitter_permille=jitter)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(Invalid):
        ExponentialBackoff(base_ms=10, cap_ms=5)
    with pytest.raises(Invalid):
        webhook_delay(0, jitter_permille=1001)
