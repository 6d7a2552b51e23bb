"""Every path: where new ids come from.

Invariant: ids made one after another by one process sort in that order, also within a millisecond, so events that
one transaction emits are listed as they were emitted. Source: RFC 9562, UUID version 7 with a counter (method 1).
"""

from __future__ import annotations

import secrets
import threading
from datetime import datetime
from typing import Final
from uuid import UUID

STEP_BACK_MAX_MS: Final = 1_000
_COUNTER_BITS: Final = 42
_RANDOM_BITS: Final = 32
_VERSION: Final = 7 << 76
_VARIANT: Final = 2 << 62
_LOW_COUNTER_BITS: Final = 30
_TIME_SHIFT: Final = 80


class IdMaker:
    """Makes UUIDv7s from machine time; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._millisecond = 0
        self._counter = 0

    def new_id(self, now: datetime) -> UUID:
        """A UUIDv7 of `now`, greater than the one before.

        A clock that steps back a little does not bring ids back: the last millisecond is kept until time has passed
        it. After a longer step the ids follow the clock, for a time that was wrong must not drag all later ids along.
        """
        millisecond = int(now.timestamp() * 1000)
        with self._lock:
            if not 0 <= self._millisecond - millisecond <= STEP_BACK_MAX_MS:
                # The counter starts in its lower half, so a millisecond has room for two trillion ids.
                self._millisecond = millisecond
                self._counter = secrets.randbits(_COUNTER_BITS - 1)
            else:
                self._counter += 1
            millisecond, counter = self._millisecond, self._counter
        high, low = counter >> _LOW_COUNTER_BITS, counter & ((1 << _LOW_COUNTER_BITS) - 1)
        value = millisecond << 80 | _VERSION | high << 64 | _VARIANT
        return UUID(int=value | low << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS))


# One maker per process keeps the order; it holds no resource and knows no time of its own.
new_id = IdMaker().new_id


def first_id_at(instant: datetime) -> UUID:
    """The least id that can have been made at an instant: a UUIDv7 begins with its milliseconds."""
    return UUID(int=int(instant.timestamp() * 1000) << _TIME_SHIFT)
