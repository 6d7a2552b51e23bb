"""Publish path, step 2: how far ahead of the router a shard may publish.

Invariant: while a router owns a partition, at most `publish_ahead` messages of it are on the bus and unrouted, so that
a backlog waits in the outbox, where claims are fair across tenants. Sequences are dense in each stream, so what is
unrouted is the stream's end less the router's position. Without a router there is no window: nobody would open it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from billing.runtime.bus.base import BusUnavailable
from billing.services import outbox
from billing.services.outbox import Routed
from workers.dispatcher.settings import DispatcherSettings
from workers.dispatcher.shards import Shard
from workers.ground import Ground


class Window:
    """Gives shards room to publish."""

    def __init__(self, ground: Ground, settings: DispatcherSettings) -> None:
        self._database, self._bus = ground.database, ground.bus
        self._ahead = settings.publish_ahead

    async def look(self, shards: Sequence[Shard], wanted: int, *, unanswered: int = 0) -> None:
        """Sets the room of those shards that have less than `wanted`, or none at all.

        `unanswered` messages of them are being published just now.
        """
        poor = [shard for shard in shards if shard.room < min(wanted, self._ahead)]
        if not poor:
            return
        routed = await outbox.read_routed(self._database, [shard.lease.shard for shard in poor])
        looks = [self._measure(s, routed.get(s.lease.shard), unanswered) for s in poor]
        await asyncio.gather(*looks)

    async def _measure(self, shard: Shard, routed: Routed | None, unanswered: int) -> None:
        shard.room = self._ahead
        if routed is None:
            return
        if shard.stream_end is not None:
            shard.room = self._ahead - (shard.stream_end - routed.sequence) - unanswered
            if shard.room > 0:
                return
        # Unknown, or full: the stream itself knows better, since others publish too and the sweeper trims.
        try:
            stream = await self._bus.stream_state(shard.lease.shard)
        except BusUnavailable:
            shard.stream_end, shard.room = None, self._ahead  # the publish will tell of the outage
            return
        # The router of another stream has not begun with this one.
        position = routed.sequence if routed.identity == stream.identity else 0
        unrouted = stream.last_seq - max(position, stream.first_seq - 1)
        shard.stream_end, shard.room = stream.last_seq, self._ahead - unrouted - unanswered
