"""Router, step 1: one owned partition, read from its stored position on.

Invariant: what waits in memory is what the stream holds behind the stored position, without a hole and in order; it is
thrown away whenever that can no longer be said, and read again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from billing.runtime.bus.base import BusError, Received
from billing.runtime.faults import Fault, fault_of
from billing.services import routing
from billing.services.leases import Lease
from workers.ground import Ground
from workers.metrics import RouterMetrics
from workers.router.settings import RouterSettings

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Partition:
    """One partition, from taking its lease to losing it. `lock` is held by whoever moves the position."""

    lease: Lease
    pulled: list[Received] = field(default_factory=list)
    pulled_bytes: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    room: asyncio.Event = field(default_factory=asyncio.Event)
    is_open: bool = False
    identity: str = ""
    sequence: int = 0
    slow_until: int = 0  # up to this sequence events are taken one by one
    served_at: float = 0.0

    def shut(self) -> None:
        """Forgets what was pulled; the reader is made anew."""
        self.is_open = False
        self.pulled.clear()
        self.pulled_bytes = 0
        self.room.set()

    def add(self, messages: list[Received], settings: RouterSettings) -> None:
        """What was read; when that is much, no more is until some of it is routed."""
        self.pulled += messages
        self.pulled_bytes += sum([len(message.body) for message in messages])
        if not self._has_room(settings):
            self.room.clear()

    def drop(self, count: int, sequence: int, settings: RouterSettings) -> None:
        """The first `count` messages are routed, and the stored position is `sequence`."""
        self.pulled_bytes -= sum([len(message.body) for message in self.pulled[:count]])
        del self.pulled[:count]
        self.sequence = sequence
        if self._has_room(settings):
            self.room.set()

    def _has_room(self, settings: RouterSettings) -> bool:
        fits = self.pulled_bytes < settings.pulled_bytes_max
        return fits and len(self.pulled) < settings.pulled_events_max


class Puller:
    """Keeps partitions filled; `pull` runs until it is cancelled."""

    def __init__(
        self,
        ground: Ground,
        settings: RouterSettings,
        metrics: RouterMetrics,
        on_arrival: Callable[[], None],
    ) -> None:
        self._database, self._bus = ground.database, ground.bus
        self._settings, self._metrics = settings, metrics
        self._on_arrival = on_arrival

    async def pull(self, partition: Partition) -> None:
        """Reads the partition, again and again from its stored position when the reader is lost."""
        failures = 0
        while True:
            try:
                await self._read(partition)
                failures = 0
            except Exception as error:
                failures = 1 if partition.is_open else failures + 1
                _report(partition, error, failures)
            pause = self._settings.reopen_backoff.delay(
                max(failures, 1), jitter_permille=random.randint(0, 1000)
            )
            await asyncio.sleep(pause.total_seconds())

    async def _read(self, partition: Partition) -> None:
        settings = self._settings
        # Under the lock: a cycle under way moves the position, and what it took must not be read again.
        async with partition.lock:
            partition.shut()
            if not await self._open(partition):
                return
        number, after = partition.lease.shard, partition.sequence
        async with self._bus.reader(number, after, partition.identity) as reader:
            partition.is_open = True
            while partition.is_open:
                await partition.room.wait()
                batch = await reader.next_batch(settings.cycle_events_max, settings.pull_wait_s)
                if batch and partition.is_open:
                    partition.add(batch, settings)
                    self._on_arrival()

    async def _open(self, partition: Partition) -> bool:
        stream = await self._bus.stream_state(partition.lease.shard)
        position = await routing.open_position(self._database, partition.lease, stream)
        if position is None:
            return False
        partition.identity, partition.sequence = position.identity, position.sequence
        number = partition.lease.shard
        if position.reset:
            self._metrics.resets.inc()
            log.warning("partition %d: the stream is another one; read from its start", number)
        if position.gap:
            self._metrics.gaps.inc()
            log.error("partition %d: the stream begins at %d", number, position.sequence + 1)
        return True


def _report(partition: Partition, error: Exception, failures: int) -> None:
    number = partition.lease.shard
    expected = isinstance(error, BusError) or fault_of(error) is not Fault.DATA
    if not expected:
        log.exception("partition %d cannot be read", number)
    elif failures == 1:
        log.info("partition %d is read anew: %s", number, error)
