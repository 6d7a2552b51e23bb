"""Publish path, beside it: the look for events that the bus lost.

Invariant: a slice is checked only when everything that was on the bus at that time has been routed: every partition's
position has reached the target that was read after the slice was found out of the outbox. A stream that became another
one, or went back, makes the targets void.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from billing.runtime.bus.base import BusUnavailable
from billing.services import consumer_starts, healing, upkeep
from billing.services.consumers import Wanted
from billing.services.healing import Slice
from workers.ground import Ground
from workers.metrics import SweeperMetrics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HealingSettings:
    """How old an event must be, longer than any transaction that emits; and how many are checked at once."""

    after: timedelta = timedelta(minutes=3)
    slice_events_max: int = 5_000


class Healer:
    """`step` takes one check a step further. `wanted` says who should have what; empty where nothing is routed."""

    def __init__(
        self, ground: Ground, wanted: Wanted, settings: HealingSettings, metrics: SweeperMetrics
    ) -> None:
        self._ground, self._wanted = ground, wanted
        self._settings, self._metrics = settings, metrics
        self._slice: Slice | None = None
        self._targets: dict[int, tuple[str, int]] = {}
        self._behind: list[str] = []

    async def step(self) -> int:
        """Above zero when a slice was done, so that the next may be looked at. Raises what the database does."""
        if not self._wanted or await self._is_behind():
            return 0
        try:
            return await self._check(self._ground.clock.now())
        except BusUnavailable as error:
            log.info("nothing is healed now: %s", error)
            return 0

    async def _is_behind(self) -> bool:
        """Whether there are consumers of a newer release: what they lack only its sweeper can tell."""
        newer = await consumer_starts.newer_than(self._ground.database, self._wanted)
        if newer != self._behind:
            self._behind = newer
            if newer:
                log.warning("healing is left to a newer release, which has %s", ", ".join(newer))
        return bool(newer)

    async def _check(self, now: datetime) -> int:
        database, settings = self._ground.database, self._settings
        if self._slice is None:
            found = await healing.find_slice(
                database, before=now - settings.after, most=settings.slice_events_max
            )
            if found is None:
                return 0
            # The targets after the look into the outbox: what had left it is below them, or lost.
            self._targets = await self._streams()
            self._slice = found
        reached = await self._reached()
        if reached is None:
            self._slice = None
        if not reached or self._slice is None:
            return 0
        checked, self._slice = self._slice, None
        healed = await healing.heal(database, checked, self._wanted)
        if healed.armed:
            self._metrics.events_healed.inc(healed.armed)
            log.warning("%d events had not reached all consumers: published again", healed.armed)
        return int(healed.done)

    async def _streams(self) -> dict[int, tuple[str, int]]:
        """Each partition's stream as it is now: its identity and last sequence."""
        streams = {}
        for partition in await upkeep.routed_positions(self._ground.database):
            state = await self._ground.bus.stream_state(partition)
            streams[partition] = (state.identity, state.last_seq)
        return streams

    async def _reached(self) -> bool | None:
        """Whether every position has reached its target; None when a target is void."""
        positions = await upkeep.routed_positions(self._ground.database)
        streams = await self._streams()
        if positions.keys() != self._targets.keys():
            return None
        for partition, (identity, last) in self._targets.items():
            known, routed = positions[partition]
            stream_identity, stream_last = streams[partition]
            if (known, stream_identity) != (identity, identity) or stream_last < last:
                return None
            if routed < last:
                return False
        return True
