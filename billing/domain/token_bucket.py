"""The rim: a rate with some patience: a bucket that fills by `rate` a second, up to what `burst_s` seconds fill.

Invariant: over any stretch of time no more is taken than the burst, what flowed in, and one request. A request that is
larger than the bucket is let through when the bucket is full, and leaves a debt: it would never fit otherwise.
"""

from __future__ import annotations


class TokenBucket:
    """Time is an argument, in seconds; it may step back, and then nothing flows in."""

    __slots__ = ("_at_s", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst_s: float, now_s: float) -> None:
        self._rate, self._burst = rate, max(rate * burst_s, 1.0)
        self._tokens, self._at_s = self._burst, now_s

    def take(self, count: int, now_s: float) -> float:
        """Takes so many and answers 0; or takes none, and answers how many seconds to wait."""
        if now_s > self._at_s:
            self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        lacking = min(count, self._burst) - self._tokens
        if lacking > 0:
            return lacking / self._rate
        self._tokens -= count
        return 0.0
