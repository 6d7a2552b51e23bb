"""Publish path, step 3: messages into JetStream, as an atomic batch or plainly.

An atomic batch is one write and one acknowledgement for up to 1000 messages (40,000-100,000 a
second, also with an fsync before the acknowledgement); a plain publish has an acknowledgement of
its own. The client's `publish_async` is not used: it never resolves on an API error and never
times out.

Invariant: "published" is said only after the server's acknowledgement, and a refusal is laid on the
message only when the server's code says that the message is at fault. All else is an outage.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

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
    StreamMissing,
    refuse_oversized,
)
from billing.runtime.bus.nats_connection import (
    Answer,
    NatsConnection,
    NobodyListens,
    PublishDenied,
    Question,
)
from billing.runtime.bus.nats_link import NatsLink
from billing.runtime.bus.nats_streams import ApiError, stream_name
from billing.runtime.bus.nats_wire import attribute_block, bus_subject, hpub

# JetStream's codes that blame a single message.
_BLAME = {
    10054: RefusalReason.TOO_LARGE,  # message size exceeds maximum allowed
    10097: RefusalReason.TOO_LARGE,  # header size exceeds maximum allowed
}
# JetStream's codes that refuse a whole batch although the server is well: 10174 no atomic batches
# on this stream, 10175-10179 and 10200 malformed, 10176 also "a member was refused", 10199 too
# many, 10201 an id seen before.
_BATCH_AT_FAULT = frozenset({10174, 10175, 10176, 10177, 10179, 10199, 10200, 10201, *_BLAME})


class NatsPublisher:
    """Publishes over a link; holds no message after the call."""

    def __init__(self, link: NatsLink, settings: BusSettings) -> None:
        self._link = link
        self._settings = settings
        self._batches = 0

    @property
    def max_message_bytes(self) -> int:
        """The smaller of the stream's limit and what the server takes in one payload."""
        limit = self._settings.message_max_bytes
        if self._link.connected:
            limit = min(limit, self._link.connection.max_payload)
        return limit

    async def publish_batch(self, partition: int, messages: Sequence[BusMessage]) -> PublishAck:
        """All or none, by one atomic batch; see `base.Publisher`."""
        if not messages:
            raise ValueError("a batch has at least one message")
        connection = self._link.connection
        self._batches += 1
        question = connection.question(partial(_subjects_of, partition, messages))
        try:
            connection.send(self._batch_bytes(partition, messages, question.inbox))
            answer = await connection.answer(question, self._settings.ack_timeout_s)
        except MessageRefused as error:
            raise BatchRefused(str(error)) from error
        except PublishDenied as error:
            raise BatchRefused(f"not permitted: {error}") from error
        except NobodyListens as error:
            raise StreamMissing(f"{stream_name(partition)} is missing or has no leader") from error
        finally:
            connection.forget(question)
        return _batch_ack(answer, len(messages))

    def _batch_bytes(self, partition: int, messages: Sequence[BusMessage], inbox: str) -> bytes:
        """The whole batch as one write.

        Raises:
            MessageRefused: a member can be seen to be at fault before it is sent.
            BatchRefused: more than a batch may hold.
        """
        count, limit = len(messages), self.max_message_bytes
        refuse_oversized(messages)
        batch_id = f"Nats-Batch-Id: {inbox[7:]}\r\nNats-Batch-Sequence: "
        parts: list[bytes] = []
        for number, message in enumerate(messages, 1):
            subject = bus_subject(partition, message.tenant, message.subject)
            block = f"{batch_id}{number}\r\n{attribute_block(message)}"
            reply = ""
            if number == count:
                block, reply = f"{block}Nats-Batch-Commit: 1\r\n", inbox
            _check_size(message, len(block), limit)
            parts += hpub(subject, reply, block, message.body)
        return b"".join(parts)

    async def publish_one(self, message: BusMessage) -> PublishAck:
        """One plain publish; see `base.Publisher`."""
        outcome = (await self.publish_singly([message]))[0]
        if isinstance(outcome, PublishAck):
            return outcome
        raise outcome

    async def publish_singly(self, messages: Sequence[BusMessage]) -> list[Outcome]:
        """Plain publishes in one write, their acknowledgements awaited together."""
        if len(messages) > BATCH_MAX_MESSAGES:
            raise ValueError(f"at most {BATCH_MAX_MESSAGES} messages at once")
        try:
            connection = self._link.connection
        except BusUnavailable as error:
            return [error] * len(messages)
        asked = [self._ask(connection, message) for message in messages]
        try:
            connection.send(b"".join([data for _, data, _ in asked]))
        except BusUnavailable as error:
            for question, _, _ in asked:
                connection.forget(question)
            return [error if refused is None else refused for _, _, refused in asked]
        await connection.wait_for_answers(
            [question for question, _, refused in asked if refused is None],
            self._settings.ack_timeout_s,
        )
        return [
            refused or await self._outcome(connection, message, question)
            for message, (question, _, refused) in zip(messages, asked, strict=True)
        ]

    def _ask(
        self, connection: NatsConnection, message: BusMessage
    ) -> tuple[Question, bytes, MessageRefused | None]:
        question = connection.question(partial(_subjects_of, message.partition, [message]))
        try:
            subject = bus_subject(message.partition, message.tenant, message.subject)
            block = attribute_block(message)
            _check_size(message, len(block), self.max_message_bytes)
        except MessageRefused as refused:
            connection.forget(question)
            return question, b"", refused
        return question, b"".join(hpub(subject, question.inbox, block, message.body)), None

    async def _outcome(
        self, connection: NatsConnection, message: BusMessage, question: Question
    ) -> Outcome:
        try:
            return _single_ack(await connection.answer(question, 0))
        except PublishDenied as error:
            return MessageRefused(RefusalReason.NOT_PERMITTED, str(error))
        except NobodyListens:
            return StreamMissing(f"{stream_name(message.partition)} is missing or has no leader")
        except (BusUnavailable, MessageRefused) as error:
            return error


def _subjects_of(partition: int, messages: Sequence[BusMessage]) -> list[str]:
    return [bus_subject(partition, message.tenant, message.subject) for message in messages]


def _check_size(message: BusMessage, block: int, limit: int) -> None:
    size = block + 12 + len(message.body)
    if size > limit:
        text = f"{message.bus_id} has {size} bytes with its headers; the bus takes {limit}"
        raise MessageRefused(RefusalReason.TOO_LARGE, text)


def _batch_ack(answer: Answer, count: int) -> PublishAck:
    reply = json.loads(answer.body) if answer.body else {}
    if "error" in reply:
        error = ApiError(reply["error"])
        if error.code in _BATCH_AT_FAULT:
            raise BatchRefused(str(error))
        raise BusUnavailable(f"batch not stored: {error}")
    if reply.get("count") != count:  # a server without atomic batches answers for the last one only
        raise BusUnavailable(f"NATS acknowledged {reply.get('count')} of {count} messages")
    return PublishAck(duplicate=False, sequence=int(reply["seq"]))


def _single_ack(answer: Answer) -> PublishAck:
    reply = json.loads(answer.body)
    if "error" not in reply:
        return PublishAck(bool(reply.get("duplicate", False)), int(reply["seq"]))
    error = ApiError(reply["error"])
    if error.code in _BLAME:
        raise MessageRefused(_BLAME[error.code], str(error))
    raise BusUnavailable(f"message not stored: {error}")
