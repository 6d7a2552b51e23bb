"""Publish path, step 3: messages into Kafka, many under one future.

Kafka has neither atomic batches nor a window that drops duplicates. A batch here is "all
acknowledged, or try again"; what was stored of a failed one is stored twice, and the inbox
decides. Order holds all the same: the producer is idempotent and gapless (a message that fails
takes those behind it along), so what is repeated repeats a whole tail.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message

from billing.runtime.bus.base import (
    BATCH_MAX_MESSAGES,
    BatchRefused,
    BusMessage,
    BusSettings,
    BusUnavailable,
    MessageRefused,
    Outcome,
    PublishAck,
    RefusalReason,
    refuse_oversized,
)
from billing.runtime.bus.kafka_client import TOPIC, ProducerThread, refusal_of
from billing.runtime.bus.kafka_wire import Headers, kafka_headers

RECORD_OVERHEAD = 128  # bytes of a record's own fields, rounded up
CALLBACK_SLACK_S = 2.0  # librdkafka reports timeouts by itself; this is for when it does not


class _Deliveries:
    """Counts the delivery reports of one publish; its future resolves at the last one."""

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = count
        self._lock = threading.Lock()  # reports also come from the thread that flushes
        self.reports: list[PublishAck | KafkaError] = [KafkaError(KafkaError._TIMED_OUT)] * count
        self.done: asyncio.Future[None] = self._loop.create_future()

    def report(self, index: int, error: KafkaError | None, message: Message | None) -> None:
        """Take one report; called from librdkafka's polling thread, or for a failed produce."""
        if error is not None:
            self.reports[index] = error
        elif message is not None:
            self.reports[index] = PublishAck(False, (message.offset() or 0) + 1)
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class KafkaPublisher:
    """Publishes through one producer; holds no message after its report."""

    def __init__(self, thread: ProducerThread, settings: BusSettings) -> None:
        self._thread = thread
        self._settings = settings

    @property
    def max_message_bytes(self) -> int:
        """The topic's limit."""
        return self._settings.message_max_bytes

    async def publish_batch(self, partition: int, messages: Sequence[BusMessage]) -> PublishAck:
        """All acknowledged, or an error; see `base.Publisher` and this module's first lines."""
        if not messages:
            raise ValueError("a batch has at least one message")
        refuse_oversized(messages)
        try:
            # All are looked at before one is sent.
            headers = [self._headers(message) for message in messages]
        except MessageRefused as error:
            raise BatchRefused(str(error)) from error
        last = PublishAck(False, 0)
        for report in await self._produce(partition, messages, headers):
            if isinstance(report, KafkaError):
                if (refused := refusal_of(report)) is not None:
                    raise BatchRefused(str(refused))
                raise BusUnavailable(f"Kafka did not take the batch: {report.str()}")
            last = report
        return last

    async def publish_one(self, message: BusMessage) -> PublishAck:
        """One message; see `base.Publisher`."""
        outcome = (await self.publish_singly([message]))[0]
        if isinstance(outcome, PublishAck):
            return outcome
        raise outcome

    async def publish_singly(self, messages: Sequence[BusMessage]) -> list[Outcome]:
        """Messages at once, each with its outcome; see `base.Publisher`."""
        if len(messages) > BATCH_MAX_MESSAGES:
            raise ValueError(f"at most {BATCH_MAX_MESSAGES} messages at once")
        return list(await asyncio.gather(*[self._single(message) for message in messages]))

    async def _single(self, message: BusMessage) -> Outcome:
        try:
            headers = [self._headers(message)]
            report = (await self._produce(message.partition, [message], headers))[0]
        except (MessageRefused, BusUnavailable) as error:
            return error
        if isinstance(report, PublishAck):
            return report
        return refusal_of(report) or BusUnavailable(f"Kafka did not take it: {report.str()}")

    def _headers(self, message: BusMessage) -> Headers:
        """The message's headers, when all of it fits.

        Raises:
            MessageRefused: TOO_LARGE or MALFORMED.
        """
        headers = kafka_headers(message)
        size = len(message.body) + len(message.key) + RECORD_OVERHEAD
        size += sum([len(name) + len(value or "") for name, value in headers])
        if size > self._settings.message_max_bytes:
            text = (
                f"{message.bus_id} has {size} bytes with its headers; "
                f"the bus takes {self._settings.message_max_bytes}"
            )
            raise MessageRefused(RefusalReason.TOO_LARGE, text)
        return headers

    async def _produce(
        self, partition: int, messages: Sequence[BusMessage], headers: Sequence[Headers]
    ) -> list[PublishAck | KafkaError]:
        """Hand over to librdkafka and wait for every report.

        Raises:
            BusUnavailable: no broker can be reached, the local queue is full, or reports stay away.
        """
        if not self._thread.connected:
            raise BusUnavailable("no Kafka broker can be reached")
        deliveries = _Deliveries(len(messages))
        for index, message in enumerate(messages):
            try:
                self._thread.producer.produce(
                    TOPIC,
                    message.body,
                    message.key,
                    partition,
                    partial(deliveries.report, index),
                    headers=headers[index],
                )
            except KafkaException as error:
                deliveries.report(index, error.args[0], None)
            except BufferError as error:
                raise BusUnavailable("the Kafka producer's queue is full") from error
        try:
            async with asyncio.timeout(self._settings.ack_timeout_s + CALLBACK_SLACK_S):
                await deliveries.done
        except TimeoutError as error:
            raise BusUnavailable("no answer from Kafka") from error
        return deliveries.reports


def producer_config(settings: BusSettings) -> dict[str, object]:
    """Idempotent, gapless, acknowledged by all in-sync replicas."""
    return {
        "enable.idempotence": True,
        "enable.gapless.guarantee": True,
        "acks": "all",
        "linger.ms": 1,
        "delivery.timeout.ms": int(settings.ack_timeout_s * 1000),
        "message.max.bytes": settings.message_max_bytes + RECORD_OVERHEAD,
        "queue.buffering.max.messages": 32 * BATCH_MAX_MESSAGES,
        "queue.buffering.max.kbytes": settings.unsent_max_bytes // 1024,
    }
