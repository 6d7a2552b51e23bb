"""A rate with some patience: never more than the burst, what flowed in, and one request."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from billing.domain.token_bucket import TokenBucket


def test_a_burst_goes_through_then_the_rate() -> None:
    bucket = TokenBucket(rate=10, burst_s=2, now_s=0.0)
    assert [bucket.take(1, 0.0) for _ in range(20)] == [0.0] * 20
    assert bucket.take(1, 0.0) == 0.1
    assert bucket.take(1, 0.05) == 0.05
    assert bucket.take(1, 0.1) == 0.0
    assert bucket.take(1, 0.1) > 0


def test_more_than_the_bucket_holds_goes_through_when_it_is_full_and_is_paid_for_afterwards() -> (
    None
):
    bucket = TokenBucket(rate=10, burst_s=2, now_s=0.0)
    assert bucket.take(50, 0.0) == 0.0
    assert bucket.take(1, 0.0) == 3.1
    assert bucket.take(50, 4.0) == 1.0
    assert bucket.take(50, 5.0) == 0.0


def test_a_clock_that_steps_back_lets_nothing_in_and_starves_nobody() -> None:
    bucket = TokenBucket(rate=1, burst_s=1, now_s=100.0)
    assert bucket.take(1, 100.0) == 0.0
    assert bucket.take(1, 99.0) == 1.0
    assert bucket.take(1, 99.5) == 0.5


@given(
    st.floats(0.1, 1000),
    st.floats(0, 5),
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 3)), max_size=60),
)
def test_what_is_taken_stays_within_the_promise_and_whoever_waits_as_told_gets_it(
    rate: float, burst_s: float, steps: list[tuple[int, float]]
) -> None:
    bucket, now, taken = TokenBucket(rate, burst_s, 0.0), 0.0, 0
    for count, pause in steps:
        now += pause
        if wait_s := bucket.take(count, now):
            now += wait_s + 1e-6
            assert bucket.take(count, now) == 0.0
        taken += count
        assert taken <= max(rate * burst_s, 1.0) + rate * now + count + 1e-6
