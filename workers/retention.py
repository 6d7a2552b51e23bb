"""Every path's ground: the sweep that drops old weeks of the log, the inbox and the feed.

Invariant: any number of processes may run it at any time: what one of them has begun another finishes. A week that is
still needed is told, and counted until it is not.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from billing.runtime.db import Database
from billing.services import retention
from billing.services.retention import INBOX, Kept, Partition
from workers.ground import Ground
from workers.metrics import SweeperMetrics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """How long what is kept, and how many weeks are looked at in one sweep."""

    log_kept: timedelta = timedelta(days=90)
    # Longer than the longest replay that may still be told from the first time.
    inbox_kept: timedelta = timedelta(days=35)
    partitions_at_once_max: int = 50

    def __post_init__(self) -> None:
        """Refuses times that would contradict each other.

        Raises:
            ValueError: the inbox would outlive the log.
        """
        if not timedelta() < self.inbox_kept <= self.log_kept:
            raise ValueError("inbox_kept must be above 0 and at most log_kept")


class Retention:
    """`step` does one sweep. `owner` is a pool of the database's owner: only it may detach."""

    def __init__(
        self, ground: Ground, owner: Database, settings: RetentionSettings, metrics: SweeperMetrics
    ) -> None:
        self._ground, self._owner, self._metrics = ground, owner, metrics
        self._settings = settings
        heals = ground.bus.heals
        self._kept = Kept(settings.log_kept, settings.inbox_kept, heals)

    async def step(self) -> int:
        """How many weeks were dropped. A week that could not be, for a lock or a need, is left to the next sweep."""
        now, database = self._ground.clock.now(), self._ground.database
        await retention.turn_feed(database, self._kept, now=now)
        old = await retention.list_old(
            database, self._kept, now=now, most=self._settings.partitions_at_once_max
        )
        dropped, needed = 0, 0
        inbox_in_order = True
        for partition in old:
            if partition.parent == INBOX and not inbox_in_order:
                continue
            done = await self._drop(partition)
            dropped += done
            needed += not done
            inbox_in_order = inbox_in_order and (done or partition.parent != INBOX)
        self._metrics.partitions_dropped.inc(dropped)
        self._metrics.partitions_overdue.set(needed)
        return dropped

    async def _drop(self, partition: Partition) -> bool:
        need = await retention.needed_by(self._ground.database, partition, self._kept)
        if need is not None:
            log.warning("%s is overdue and kept for %s", partition.child, need)
            return False
        try:
            return await retention.drop_partition(
                self._owner, self._ground.database, partition, self._kept
            )
        except asyncpg.PostgresError as error:
            # A lock that somebody holds, or another process that was first.
            log.info("%s is not dropped now: %s", partition.child, error)
            return False
