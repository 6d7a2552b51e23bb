"""Publish path without a bus: accepts every event and forgets it.

For a deployment that wants the API and the log alone. Nothing is routed, so there are no webhooks,
no feed and no invoices from cycles, and healing is off: it would arm every event for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime

from billing.runtime.bus.base import (
    BATCH_MAX_BYTES,
    BusMessage,
    Outcome,
    PublishAck,
    Received,
    StreamState,
)

STATE = StreamState(identity="noop", first_seq=1, last_seq=0)


class NoopReader:
    """A reader of nothing."""

    state = STATE

    async def next_batch(self, max_messages: int, wait_s: float) -> list[Received]:
        """Nothing, after `wait_s`."""
        await asyncio.sleep(wait_s)
        return []


class NoopBus:
    """`base.Bus` that leads nowhere; `published` counts what went in."""

    heals = False
    connected = True
    max_message_bytes = BATCH_MAX_BYTES

    def __init__(self) -> None:
        self.published = 0
        self._hints: dict[str, list[asyncio.Event]] = {}

    async def publish_batch(self, partition: int, messages: Sequence[BusMessage]) -> PublishAck:
        """Count and forget."""
        self.published += len(messages)
        return PublishAck(duplicate=False, sequence=0)

    async def publish_one(self, message: BusMessage) -> PublishAck:
        """Count and forget."""
        return await self.publish_batch(message.partition, [message])

    async def publish_singly(self, messages: Sequence[BusMessage]) -> list[Outcome]:
        """Count and forget."""
        return [await self.publish_one(message) for message in messages]

    async def stream_state(self, partition: int) -> StreamState:
        """An empty stream, for ever the same."""
        return STATE

    @contextlib.asynccontextmanager
    async def reader(
        self, partition: int, after: int, identity: str | None = None
    ) -> AsyncIterator[NoopReader]:
        """A reader that never yields."""
        yield NoopReader()

    async def trim(self, partition: int, up_to: int, identity: str | None = None) -> None:
        """There is nothing to trim."""

    async def last_before(self, partition: int, at: datetime) -> int:
        """Nothing was stored before `at`."""
        return 0

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """The connection never changes."""

    async def ensure_streams(self, partitions: int) -> None:
        """There are none."""

    def hint(self, topic: str) -> None:
        """Wake who waits in this process."""
        for event in self._hints.get(topic, ()):
            event.set()

    def subscribe_hints(self, topic: str) -> asyncio.Event:
        """An event set by each hint of this process."""
        event = asyncio.Event()
        self._hints.setdefault(topic, []).append(event)
        return event

    async def durability_warnings(self) -> list[str]:
        """One: nothing is kept."""
        return ["the bus is noop://: events are logged but reach no handler and no webhook"]

    async def close(self) -> None:
        """Nothing is open."""
