"""Every path's ground: the sweeper makes partitions ahead, deletes old answers, and trims the bus.

Invariant: each sweep may be run by any number of processes at once and at any time; it removes nothing that somebody
still needs, and unrouted messages never.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from billing.runtime.bus.base import BusUnavailable, StreamMissing
from billing.services import reconciliation, upkeep, webhook_retention
from workers.ground import Ground
from workers.metrics import SweeperMetrics

log = logging.getLogger(__name__)

SWEEP_EVERY_S: Final = 10.0  # the idle time of its loop


@dataclass(frozen=True, slots=True)
class SweeperSettings:
    """How far ahead, how long kept, how much at once."""

    # This week and three more: at least 14 days ahead on any day of the week.
    weeks_ahead: int = 4
    partitions_every: timedelta = timedelta(hours=1)
    answers_kept: timedelta = timedelta(hours=48)  # 24 hours are promised
    answers_at_once_max: int = 500
    deliveries_at_once_max: int = 500
    # Quotas look at the month; a year and a month of days is there to compare with.
    record_counts_kept: timedelta = timedelta(days=400)
    record_counts_at_once_max: int = 500
    bus_retention: timedelta = timedelta(hours=24)


class Sweeper:
    """`step` does one small sweep of each kind."""

    def __init__(self, ground: Ground, settings: SweeperSettings, metrics: SweeperMetrics) -> None:
        self._ground, self._settings, self._metrics = ground, settings, metrics
        self._partitions_made_at: datetime | None = None

    async def step(self) -> int:
        """Sweeps once; above zero when there is more that is old to delete."""
        now = self._ground.clock.now()
        await self._make_partitions(now)
        await self._trim(now)
        await self._reconcile(now)
        closed = await self._close_deliveries(now)
        counts = await self._delete_record_counts(now)
        return closed + counts + await self._delete_answers(now)

    async def _make_partitions(self, now: datetime) -> None:
        made_at = self._partitions_made_at
        if made_at is not None and now - made_at < self._settings.partitions_every:
            return
        made = await upkeep.make_partitions(
            self._ground.database, now=now, weeks=self._settings.weeks_ahead
        )
        self._partitions_made_at = now
        self._metrics.partitions_made.inc(made)

    async def _close_deliveries(self, now: datetime) -> int:
        most = self._settings.deliveries_at_once_max
        closed = await webhook_retention.close_old(self._ground.database, now=now, most=most)
        self._metrics.deliveries_closed.inc(closed)
        return closed if closed == most else 0

    async def _delete_answers(self, now: datetime) -> int:
        most = self._settings.answers_at_once_max
        deleted = await upkeep.delete_old_answers(
            self._ground.database, before=now - self._settings.answers_kept, most=most
        )
        self._metrics.answers_deleted.inc(deleted)
        return deleted if deleted == most else 0

    async def _delete_record_counts(self, now: datetime) -> int:
        most = self._settings.record_counts_at_once_max
        deleted = await upkeep.delete_old_record_counts(
            self._ground.database,
            before=(now - self._settings.record_counts_kept).date(),
            most=most,
        )
        return deleted if deleted == most else 0

    async def _reconcile(self, now: datetime) -> None:
        """One slice of the buckets is compared with its records."""
        async with self._ground.database.transaction() as tx:
            await reconciliation.reconcile_slice(tx, now=now)

    async def _trim(self, now: datetime) -> None:
        """Positions first, then the streams: what is routed meanwhile stays for the next sweep."""
        positions = await upkeep.routed_positions(self._ground.database)
        for partition, (identity, routed) in positions.items():
            try:
                await self._trim_one(partition, identity, routed, now)
            except StreamMissing as error:
                # Somebody deleted it. What was in it and not routed is lost to the bus, not to the log.
                log.error("%s; it is made again", error)
                await self._ground.bus.ensure_streams(len(positions))
                return
            except BusUnavailable as error:
                log.info("partition %d is not trimmed now: %s", partition, error)
                return

    async def _trim_one(self, partition: int, identity: str, routed: int, now: datetime) -> None:
        bus = self._ground.bus
        stream = await bus.stream_state(partition)
        # Another stream than the router knows: nothing of it is routed.
        if stream.identity != identity or stream.first_seq > min(routed, stream.last_seq):
            return
        old = await bus.last_before(partition, now - self._settings.bus_retention)
        up_to = upkeep.trim_to(stream, routed, old)
        if up_to >= stream.first_seq:
            await bus.trim(partition, up_to)
            self._metrics.messages_trimmed.inc(up_to - stream.first_seq + 1)
