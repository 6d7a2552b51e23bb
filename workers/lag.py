"""Publish path and router, beside them: the lag as gauges.

Invariant: what is shown was read within the last `LAG_EVERY_S`, or, while the database is away, is the last that was.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from billing.services import lag
from billing.services.consumers import Wanted
from workers.ground import Ground
from workers.metrics import LagMetrics

LAG_EVERY_S: Final = 15.0  # the idle time of its loop
UNKNOWN: Final = float("nan")


class LagWatcher:
    """`step` reads the lag once and sets the gauges."""

    def __init__(self, ground: Ground, wanted: Wanted, metrics: LagMetrics) -> None:
        self._ground, self._wanted, self._metrics = ground, wanted, metrics

    async def step(self) -> int:
        """Always 0: the next look is when its time has come."""
        ground, metrics = self._ground, self._metrics
        now = ground.clock.now()
        found = await lag.read_lag(ground.database, ground.bus, self._wanted)
        for shard in found.shards:
            metrics.pending.labels(shard.shard).set(shard.pending)
            metrics.pending_age.labels(shard.shard).set(_age(shard.oldest, now))
        for partition in found.partitions:
            number, unrouted = partition.position.partition, partition.unrouted
            metrics.unrouted.labels(number).set(UNKNOWN if unrouted is None else unrouted)
            metrics.position.labels(number).set(partition.position.last_sequence)
        for consumer in found.consumers:
            metrics.waiting.labels(consumer.consumer).set(consumer.waiting)
            metrics.waiting_age.labels(consumer.consumer).set(_age(consumer.oldest, now))
            metrics.dead.labels(consumer.consumer).set(consumer.dead)
        return 0


def _age(oldest: datetime | None, now: datetime) -> float:
    return 0.0 if oldest is None else max((now - oldest).total_seconds(), 0.0)
