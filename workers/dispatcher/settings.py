"""Publish path, steps 2 to 4: the dispatcher's limits.

Invariant: no read, batch or turn is without a bound, and each bound has its name here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from billing.domain.backoff import ExponentialBackoff
from billing.runtime.bus.base import BATCH_MAX_BYTES, BATCH_MAX_MESSAGES

REFUSED_BACKOFF: Final = ExponentialBackoff(base_ms=1_000, cap_ms=300_000)
OUTAGE_BACKOFF: Final = ExponentialBackoff(base_ms=100, cap_ms=5_000)


@dataclass(frozen=True, slots=True)
class DispatcherSettings:
    """Rows, bytes, attempts and seconds as the names say."""

    # Shards with fewer waiting share one turn; a shard with as many or more gets turns of its own.
    shared_rows_max: int = 64
    batch_rows_max: int = BATCH_MAX_MESSAGES
    batch_bytes_max: int = BATCH_MAX_BYTES
    batches_per_turn: int = 4
    # An atomic batch of one costs 4 ms, a plain publish 0.7; above so many the batch wins.
    plain_rows_max: int = 8
    # How many plain publishes are under way at once when a batch was refused.
    singles_at_once_max: int = 100
    # Unrouted messages per partition while a router is at work: a longer backlog waits in the outbox, where tenants
    # take turns, and not in the stream, where the first comes first.
    publish_ahead: int = 2_000
    # Of replays so many: an event that is live comes behind no more of them.
    replay_ahead: int = 250
    # Replays have a batch a turn; beside live events one of so many, and then a rest so many times as long as it took.
    beside_live_rows_max: int = 100
    beside_live_rest: float = 3.0
    window_poll_s: float = 0.01  # a shard whose partition is that full is looked at again
    attempts_max: int = 8
    refused_backoff: ExponentialBackoff = REFUSED_BACKOFF
    outage_backoff: ExponentialBackoff = OUTAGE_BACKOFF
    # Turns at once, on disjoint shards: while one waits for a disk, the other works.
    lanes: int = 2
    idle_s: float = 0.25

    def __post_init__(self) -> None:
        """Refuses batches that no bus takes.

        Raises:
            ValueError: a batch above what an atomic batch may hold.
        """
        if not 1 <= self.batch_rows_max <= BATCH_MAX_MESSAGES:
            raise ValueError(f"batch_rows_max must be from 1 to {BATCH_MAX_MESSAGES}")
        if not 1 <= self.shared_rows_max <= self.batch_rows_max:
            raise ValueError("shared_rows_max must be from 1 to batch_rows_max")
        if min(self.publish_ahead, self.replay_ahead, self.beside_live_rows_max) < 1:
            raise ValueError("publish_ahead and what bounds replays must be at least 1")
