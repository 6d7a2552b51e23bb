"""Webhook and publish paths: when to try again.

Invariant: every retry has a bounded delay, and a delivery a last attempt. Chance is an argument,
in thousandths from 0 to 1000, so that a test can name it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from billing.domain.errors import Invalid

# Design section 7; the delay before attempt 1, 2, ... 10: about three days in all.
WEBHOOK_SCHEDULE_S: Final = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
WEBHOOK_ATTEMPTS_MAX: Final = len(WEBHOOK_SCHEDULE_S)
WEBHOOK_JITTER_PERCENT: Final = 20
# A receiver may ask for more time than the schedule, up to this; never for less.
RETRY_AFTER_MAX_S: Final = 86_400
# Attempts that failed by a fault of the house are not counted by the schedule, up to so many.
FORGIVEN_MAX: Final = 200
_DELTA_SECONDS: Final = re.compile(r"[0-9]{1,10}")


def webhook_delay(
    attempts_made: int, *, jitter_permille: int, retry_after_s: int | None = None
) -> timedelta | None:
    """How long after the last attempt the next one comes; None when all attempts are made.

    The schedule's delay and 0 to 20 % of it; a longer Retry-After is honoured up to 24 h.
    """
    _check_jitter(jitter_permille)
    if attempts_made >= WEBHOOK_ATTEMPTS_MAX:
        return None
    base_ms = WEBHOOK_SCHEDULE_S[max(attempts_made, 0)] * 1000
    delay_ms = base_ms + base_ms * WEBHOOK_JITTER_PERCENT * jitter_permille // 100_000
    asked_ms = min(retry_after_s or 0, RETRY_AFTER_MAX_S) * 1000
    return timedelta(milliseconds=max(delay_ms, asked_ms))


def parse_retry_after(header: str | None, now: datetime) -> int | None:
    """A Retry-After header, seconds or an HTTP date, as seconds from `now`; None if unreadable."""
    text = (header or "").strip()
    if _DELTA_SECONDS.fullmatch(text):
        return int(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    # An HTTP date says GMT; one without a zone is not one.
    if at.tzinfo is None:
        return None
    return max(0, -((now - at) // timedelta(seconds=1)))


@dataclass(frozen=True, slots=True)
class ExponentialBackoff:
    """base, 2 x base, 4 x base, ... up to the cap, each shortened by up to half by jitter."""

    base_ms: int
    cap_ms: int

    def __post_init__(self) -> None:
        if not 0 < self.base_ms <= self.cap_ms:
            raise Invalid.field("base_ms", "give a base above zero and not above the cap.")

    def delay(self, failures: int, *, jitter_permille: int) -> timedelta:
        """The pause after so many failures in a row, 1 for the first."""
        _check_jitter(jitter_permille)
        # Doubling ends before the shift could grow without bound.
        doublings = min(max(failures - 1, 0), self.cap_ms.bit_length())
        full_ms = min(self.base_ms << doublings, self.cap_ms)
        return timedelta(milliseconds=full_ms - full_ms * jitter_permille // 2000)


def _check_jitter(jitter_permille: int) -> None:
    if not 0 <= jitter_permille <= 1000:
        raise Invalid.field("jitter_permille", "give thousandths from 0 to 1000.")
