"""Publish path, step 3, and router path, step 1: the default bus, NATS JetStream.

Two connections: one to publish, ask and hint, one to read, so that an acknowledgement never waits
behind thousands of messages that are being pulled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import aiohttp

from billing.runtime.bus import nats_streams
from billing.runtime.bus.base import (
    BusMessage,
    BusSettings,
    BusUnavailable,
    Outcome,
    PublishAck,
    StreamState,
)
from billing.runtime.bus.nats_connection import NatsAddress
from billing.runtime.bus.nats_hints import NatsHints
from billing.runtime.bus.nats_link import NatsLink
from billing.runtime.bus.nats_publish import NatsPublisher
from billing.runtime.bus.nats_pull import NatsReader


class NatsBus:
    """`base.Bus` over NATS JetStream."""

    heals = True

    def __init__(self, address: NatsAddress, settings: BusSettings, name: str = "tollway") -> None:
        self._settings = settings
        self._writing = NatsLink(address, settings, f"{name}-publish")
        self._reading = NatsLink(address, settings, f"{name}-read")
        self._publisher = NatsPublisher(self._writing, settings)
        self._hints = NatsHints(self._writing)
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False

    # --- life

    async def start(self) -> None:
        """Connect; returns after the first try, and goes on trying when it failed."""
        await asyncio.gather(self._writing.start(), self._reading.start())

    async def close(self) -> None:
        """Publish nothing new, wait for what is on its way, then disconnect."""
        self._closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await self._idle.wait()
        await asyncio.gather(self._writing.close(), self._reading.close())

    @property
    def connected(self) -> bool:
        """Whether both connections stand."""
        return self._writing.connected and self._reading.connected

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """Call `callback(connected)` when either connection changes."""
        for link in (self._writing, self._reading):
            link.watch(lambda _: callback(self.connected))

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Count what `close` waits for."""
        if self._closing:
            raise BusUnavailable("the bus is closing")
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if self._under_way == 0:
                self._idle.set()

    # --- publisher

    @property
    def max_message_bytes(self) -> int:
        """Headers and body of the largest message that goes through now."""
        return self._publisher.max_message_bytes

    async def publish_batch(self, partition: int, messages: Sequence[BusMessage]) -> PublishAck:
        """All or none, by one atomic batch; see `base.Publisher`."""
        with self._counted():
            return await self._publisher.publish_batch(partition, messages)

    async def publish_one(self, message: BusMessage) -> PublishAck:
        """One plain publish; see `base.Publisher`."""
        with self._counted():
            return await self._publisher.publish_one(message)

    async def publish_singly(self, messages: Sequence[BusMessage]) -> list[Outcome]:
        """Plain publishes at once; see `base.Publisher`."""
        with self._counted():
            return await self._publisher.publish_singly(messages)

    # --- subscriber

    def reader(self, partition: int, after: int, identity: str | None = None) -> NatsReader:
        """Read behind `after`; see `base.Subscriber`."""
        return NatsReader(self._reading, self._settings, partition, after, identity)

    async def stream_state(self, partition: int) -> StreamState:
        """Identity and ends of the partition's stream."""
        return await nats_streams.read_state(
            self._writing.connection, partition, self._settings.request_timeout_s
        )

    async def trim(self, partition: int, up_to: int, identity: str | None = None) -> None:
        """Purge up to and including `up_to`."""
        timeout_s = self._settings.request_timeout_s
        await nats_streams.purge(self._writing.connection, partition, up_to, identity, timeout_s)

    async def last_before(self, partition: int, at: datetime) -> int:
        """The last sequence stored before `at`."""
        return await nats_streams.last_before(
            self._writing.connection, partition, at, self._settings.request_timeout_s
        )

    # --- the rest

    async def ensure_streams(self, partitions: int) -> None:
        """Make or update the streams of all partitions."""
        for partition in range(partitions):
            await nats_streams.ensure_stream(self._writing.connection, partition, self._settings)

    def hint(self, topic: str) -> None:
        """Wake who waits on `topic`, in any process."""
        self._hints.hint(topic)

    def subscribe_hints(self, topic: str) -> asyncio.Event:
        """An event set by each hint on `topic`."""
        return self._hints.subscribe(topic)

    async def durability_warnings(self) -> list[str]:
        """Ask the server's monitoring port how often it syncs to disk, and whether it is one of several."""
        if not self._settings.monitor_url:
            return [
                "the durability of NATS is not checked; add ?monitor=http://host:8222 to the bus URL"
            ]
        url = f"{self._settings.monitor_url.rstrip('/')}/jsz"
        try:
            timeout = aiohttp.ClientTimeout(total=self._settings.request_timeout_s)
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as reply:
                told = await reply.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return [f"the durability of NATS could not be checked at {url}: {error}"]
        return nats_streams.durability_warnings(told, self._settings.replicas)
