"""Every path: machine time, which is the database's.

Invariant: all processes agree on the time to within the round trip of one query, whatever their own clocks say.
Business time is another thing: the tenant's clock, read by the services in the transaction that uses it.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

log = logging.getLogger(__name__)

SKEW_WARNING_S: Final = 1.0


class Clock(Protocol):
    """Machine time, aware, in UTC."""

    def now(self) -> datetime:
        """The time now."""


class DatabaseClock:
    """The database's time, carried on by the process's monotonic clock between readings."""

    def __init__(self) -> None:
        self._base = datetime.now(UTC)
        self._read_at = time.monotonic()

    def now(self) -> datetime:
        """The database's time now."""
        return self._base + timedelta(seconds=time.monotonic() - self._read_at)

    def set(self, database_now: datetime, round_trip_s: float) -> None:
        """Takes a reading of the database's clock; warns when this machine's own clock is off."""
        self._base = database_now + timedelta(seconds=round_trip_s / 2)
        self._read_at = time.monotonic()
        skew_s = (datetime.now(UTC) - self._base).total_seconds()
        if abs(skew_s) > SKEW_WARNING_S + round_trip_s:
            log.warning("this machine's clock is off by %.1f s from the database's", skew_s)
