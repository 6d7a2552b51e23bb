"""Router: its limits.

Invariant: what is pulled, taken into one transaction and tried again is bounded, and each bound has its name here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from billing.domain.backoff import ExponentialBackoff

FAILED_BACKOFF: Final = ExponentialBackoff(base_ms=1_000, cap_ms=600_000)
REOPEN_BACKOFF: Final = ExponentialBackoff(base_ms=50, cap_ms=5_000)


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """Events, attempts and seconds as the names say."""

    # A partition with as many waiting has a cycle alone; the others share one.
    cycle_events_max: int = 1_000
    shared_events_max: int = 2_000
    # While there is a shared cycle, a second one is worth its commit only with as many.
    shared_events_min: int = 200
    # Per partition; above either nothing more is pulled.
    pulled_events_max: int = 2_000
    pulled_bytes_max: int = 8 * 1024 * 1024
    pull_wait_s: float = 1.0
    repeats_max: int = 3  # of a cycle, at once, after a deadlock or a time limit
    attempts_max: int = 10
    failed_backoff: ExponentialBackoff = FAILED_BACKOFF
    reopen_backoff: ExponentialBackoff = REOPEN_BACKOFF
    # An event that only has to wait is tried after a quarter of the time that it has waited, within these.
    wait_min: timedelta = timedelta(milliseconds=250)
    wait_max: timedelta = timedelta(seconds=30)
    # How often a subject that this release does not know is looked at again.
    unknown_wait: timedelta = timedelta(seconds=30)
    retry_every_s: float = 0.25
    retry_events_max: int = 100
    # What a pause had parked becomes due in steps of so many.
    release_events_max: int = 1_000
    # Cycles at once, on disjoint partitions.
    lanes: int = 2
    idle_s: float = 0.25
