"""Publish path, step 3, and router path, step 1: the bus on Kafka.

The same promise as on NATS but for two things that Kafka has not: a batch is not atomic, and a bus
id seen before is stored again. Both show as duplicates, and the inbox decides. Hints stay in the
process; between processes the adaptive poll does their work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from urllib.parse import SplitResult, parse_qsl, unquote
from weakref import WeakSet

from billing.runtime.bus.base import (
    BusMessage,
    BusMisconfigured,
    BusSettings,
    BusUnavailable,
    Outcome,
    PublishAck,
    StreamState,
)
from billing.runtime.bus.kafka_client import KafkaAddress, ProducerThread
from billing.runtime.bus.kafka_publish import KafkaPublisher, producer_config
from billing.runtime.bus.kafka_pull import KafkaReader
from billing.runtime.bus.kafka_topic import KafkaTopic

# librdkafka options that a URL may set; the others would change what the bus promises.
_ALLOWED = ("security.", "sasl.", "ssl.", "client.rack", "broker.address.", "metadata.recovery.")


class KafkaBus:
    """`base.Bus` over one Kafka topic."""

    heals = True

    def __init__(self, address: KafkaAddress, settings: BusSettings, name: str = "tollway") -> None:
        self._settings = settings
        self._config = address.config(settings, name)
        self._thread = ProducerThread({**self._config, **producer_config(settings)}, settings)
        self._publisher = KafkaPublisher(self._thread, settings)
        self._topic = KafkaTopic(self._config, settings)
        self._hints: dict[str, WeakSet[asyncio.Event]] = {}
        self._closing = False

    async def start(self) -> None:
        """Connect; returns after the first try, and goes on trying when it failed."""
        await self._thread.start()

    async def close(self) -> None:
        """Publish nothing new, wait for what is on its way, then disconnect."""
        self._closing = True
        await self._thread.stop(self._settings.drain_timeout_s)

    @property
    def connected(self) -> bool:
        """Whether a broker can be reached."""
        return self._thread.connected

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """Call `callback(connected)` at each change."""
        self._thread.watch(callback)

    # --- publisher

    @property
    def max_message_bytes(self) -> int:
        """Headers and body of the largest message that goes through."""
        return self._publisher.max_message_bytes

    async def publish_batch(self, partition: int, messages: Sequence[BusMessage]) -> PublishAck:
        """All acknowledged or an error, not atomic; see `kafka_publish`."""
        self._refuse_when_closing()
        return await self._publisher.publish_batch(partition, messages)

    async def publish_one(self, message: BusMessage) -> PublishAck:
        """One message; `duplicate` is never known here."""
        self._refuse_when_closing()
        return await self._publisher.publish_one(message)

    async def publish_singly(self, messages: Sequence[BusMessage]) -> list[Outcome]:
        """Messages at once, each with its outcome."""
        self._refuse_when_closing()
        return await self._publisher.publish_singly(messages)

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise BusUnavailable("the bus is closing")

    # --- subscriber

    def reader(self, partition: int, after: int, identity: str | None = None) -> KafkaReader:
        """Read behind `after`; see `base.Subscriber`."""
        start = (partition, after, identity)
        return KafkaReader(self._topic, self._config, self._settings, start)

    async def stream_state(self, partition: int) -> StreamState:
        """The topic's id and the partition's ends."""
        return await self._topic.state(partition)

    async def trim(self, partition: int, up_to: int, identity: str | None = None) -> None:
        """Delete records up to and including `up_to`."""
        await self._topic.trim(partition, up_to, identity)

    async def last_before(self, partition: int, at: datetime) -> int:
        """The last sequence stored before `at`."""
        return await self._topic.last_before(partition, at)

    # --- the rest

    async def ensure_streams(self, partitions: int) -> None:
        """Make or update the topic."""
        await self._topic.ensure(partitions)

    def hint(self, topic: str) -> None:
        """Wake who waits on `topic` in this process."""
        for event in self._hints.get(topic, ()):
            event.set()

    def subscribe_hints(self, topic: str) -> asyncio.Event:
        """An event set by each hint of this process."""
        event = asyncio.Event()
        self._hints.setdefault(topic, WeakSet()).add(event)
        return event

    async def durability_warnings(self) -> list[str]:
        """Too few replicas, in a sentence."""
        return await self._topic.warnings()


async def connect_kafka(parts: SplitResult, settings: BusSettings, name: str) -> KafkaBus:
    """A bus from a kafka:// URL, after its first try to connect.

    Raises:
        BusMisconfigured: an option that may not be set, or that librdkafka does not know.
    """
    user_info, _, hosts = parts.netloc.rpartition("@")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    replicas = options.pop("replicas", str(settings.replicas))
    if refused := sorted(name for name in options if not name.startswith(_ALLOWED)):
        raise BusMisconfigured(f"bus URL options {refused} cannot be set; allowed: {_ALLOWED}")
    if not hosts or not replicas.isdigit():
        raise BusMisconfigured("a Kafka URL is kafka://host:9092,host:9092?replicas=3&…")
    if user_info:
        user, _, password = user_info.partition(":")
        options |= {"sasl.username": unquote(user), "sasl.password": unquote(password)}
    settings = replace(settings, replicas=int(replicas))
    try:
        bus = KafkaBus(KafkaAddress(hosts, tuple(options.items())), settings, name)
    except Exception as error:  # librdkafka names the option that it refuses
        raise BusMisconfigured(f"Kafka options: {error}") from error
    await bus.start()
    return bus
