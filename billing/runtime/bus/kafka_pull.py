"""Router path, step 1, on Kafka: assign, seek to the stored position, read. No consumer group.

A group would move partitions by its own rules and commit offsets of its own; the lease and the
position in PostgreSQL do both. librdkafka fetches ahead in its own threads; one thread per reader
waits for it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from billing.runtime.bus.base import (
    BusSettings,
    BusUnavailable,
    ReaderLost,
    Received,
    StreamState,
    require_identity,
    require_position,
)
from billing.runtime.bus.kafka_client import TOPIC
from billing.runtime.bus.kafka_topic import KafkaTopic
from billing.runtime.bus.kafka_wire import KafkaReceived

WAIT_MAX_S = 1.0  # one wait in the thread; bounds how long closing takes


class KafkaReader:
    """One partition, read by one thread; an async context manager, used once."""

    def __init__(
        self,
        topic: KafkaTopic,
        config: dict[str, Any],
        settings: BusSettings,
        start: tuple[int, int, str | None],
    ) -> None:
        self._topic = topic
        self._config = {**config, **consumer_config(settings), "error_cb": self._on_error}
        self._partition, self._after, self._identity = start
        self._thread = ThreadPoolExecutor(1, f"kafka reader {self._partition}")
        self._consumer: Consumer | None = None
        self._state: StreamState | None = None
        self._fetch: asyncio.Future[list[Message]] | None = None
        self._left: list[Message] = []
        self._down = False

    @property
    def state(self) -> StreamState:
        """The partition as it was when the reader was made."""
        assert self._state is not None, "the reader was not entered"
        return self._state

    async def __aenter__(self) -> KafkaReader:
        state = self._state = await self._topic.state(self._partition)
        require_identity(state, self._identity)
        require_position(state, self._after)
        offset = max(self._after, state.first_seq - 1)  # sequence = offset + 1
        self._consumer = Consumer(self._config)
        self._consumer.assign([TopicPartition(TOPIC, self._partition, offset)])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            loop = asyncio.get_running_loop()
            await asyncio.shield(loop.run_in_executor(self._thread, consumer.close))
        self._thread.shutdown(wait=False)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._down = True

    async def next_batch(self, max_messages: int, wait_s: float) -> list[Received]:
        """The next messages; see `base.Reader`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            wait = min(WAIT_MAX_S, max(0.0, deadline - loop.time()))
            messages = self._left or await self._fetched(max_messages, wait)
            # A wait that an earlier call had begun may bring more than this one asked for.
            self._left = messages[max_messages:]
            if messages:
                return [KafkaReceived(message) for message in messages[:max_messages]]
            if self._down:
                raise BusUnavailable("all Kafka brokers are down")
            if loop.time() >= deadline:
                return []

    async def _fetched(self, max_messages: int, wait_s: float) -> list[Message]:
        """One wait in the thread; a cancelled call leaves it running, and the next takes it."""
        if self._consumer is None:
            raise ReaderLost("the reader is closed")
        if self._fetch is None:
            self._fetch = asyncio.get_running_loop().run_in_executor(
                self._thread, _consume, self._consumer, max_messages, wait_s
            )
        fetch = self._fetch
        try:
            messages = await asyncio.shield(fetch)
        except (KafkaException, RuntimeError) as error:
            raise BusUnavailable(f"Kafka reader: {error}") from error
        finally:
            if fetch.done():
                self._fetch = None
        return self._sound(messages)

    def _sound(self, messages: list[Message]) -> list[Message]:
        """Messages before the first error; the error itself when it comes first."""
        for index, message in enumerate(messages):
            error = message.error()
            if error is None:
                continue
            if index:
                # The next call meets the error first; what is behind it is read by a new reader.
                self._fetch = _finished([message])
                return messages[:index]
            raise ReaderLost(f"partition {self._partition}: {error.str()}")
        return messages


def _finished(messages: list[Message]) -> asyncio.Future[list[Message]]:
    future: asyncio.Future[list[Message]] = asyncio.get_running_loop().create_future()
    future.set_result(messages)
    return future


def _consume(consumer: Consumer, max_messages: int, wait_s: float) -> list[Message]:
    """The first message as soon as there is one, then what else is there already.

    `consume(n, timeout)` alone would wait the whole time for all n.
    """
    first = consumer.poll(wait_s)
    if first is None:
        return []
    return [first, *consumer.consume(max_messages - 1, 0)] if max_messages > 1 else [first]


def consumer_config(settings: BusSettings) -> dict[str, Any]:
    """No group's doings, no jump of its own when the position is gone, bounded fetching ahead."""
    return {
        "group.id": "tollway-router",  # required by the client, never joined
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "queued.min.messages": settings.pull_ahead,
        "queued.max.messages.kbytes": settings.buffer_max_bytes // 1024,
        "fetch.queue.backoff.ms": 5,  # by default a full queue stops fetching for a whole second
        "fetch.wait.max.ms": 100,
        "fetch.error.backoff.ms": 50,
    }
