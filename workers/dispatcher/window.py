"""Publish path, step 2: how far ahead of the router a shard may publish.

Invariant: while a router owns a partition, about `publish_ahead` messages of it are on the bus and unrouted at most, so
that a backlog waits in the outbox, where claims are fair across tenants; and of replays far fewer, so that what is live
finds a short way to its handlers. Sequences are dense in each stream, so what is unrouted is the stream's end less the
router's position. Without a router there is no window: nobody would open it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from billing.runtime.bus.base import BusUnavailable
from billing.services import outbox
from billing.services.outbox import Routed
from workers.dispatcher.queues import Queue
from workers.dispatcher.settings import DispatcherSettings
from workers.ground import Ground

# Without a router, so many rows are read before it is looked for again.
LOOK_AFTER_ROWS: Final = 10_000


class Window:
    """Gives queues room to publish."""

    def __init__(self, ground: Ground, settings: DispatcherSettings) -> None:
        self._database, self._bus = ground.database, ground.bus
        self._ahead = settings.publish_ahead
        self._replay_ahead = min(settings.replay_ahead, settings.publish_ahead)

    def room(self, queue: Queue) -> int:
        """How many rows of the queue may be read before it is looked at again; 0 when it is to wait."""
        if queue.ahead.unrouted is None:
            return 0
        return max(0, self._most(queue) - queue.ahead.unrouted)

    def _most(self, queue: Queue) -> int:
        return self._replay_ahead if queue.is_replay else self._ahead

    async def look(self, queues: Sequence[Queue], wanted: int, *, unanswered: int = 0) -> None:
        """Measures the shards of those queues that have less room than `wanted`, or none at all.

        `unanswered` messages of them are being published just now.
        """
        poor = {
            queue.lease.shard: queue
            for queue in queues
            if self.room(queue) < min(wanted, self._most(queue))
        }
        if not poor:
            return
        routed = await outbox.read_routed(self._database, list(poor))
        looks = [self._measure(q, routed.get(number), unanswered) for number, q in poor.items()]
        await asyncio.gather(*looks)

    async def _measure(self, queue: Queue, routed: Routed | None, unanswered: int) -> None:
        ahead = queue.ahead
        if routed is None:
            ahead.unrouted = -LOOK_AFTER_ROWS
            return
        if ahead.stream_end is not None:
            ahead.unrouted = ahead.stream_end - routed.sequence + unanswered
            if self.room(queue) > 0:
                return
        # Unknown, or full: the stream itself knows better, since others publish too and the sweeper trims.
        try:
            stream = await self._bus.stream_state(queue.lease.shard)
        except BusUnavailable:
            ahead.stream_end, ahead.unrouted = None, 0  # the publish will tell of the outage
            return
        # The router of another stream has not begun with this one.
        position = routed.sequence if routed.identity == stream.identity else 0
        unrouted = stream.last_seq - max(position, stream.first_seq - 1)
        ahead.stream_end, ahead.unrouted = stream.last_seq, unrouted + unanswered
