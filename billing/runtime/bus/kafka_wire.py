"""Publish path, step 3: a message's headers on Kafka, there and back.

CloudEvents' Kafka binding: attributes with the prefix `ce_`, except datacontenttype, which is
`content-type`. What NATS carries in its subject travels in three headers of our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import Message

from billing.runtime.bus.base import ATTRIBUTES, BusMessage, MessageRefused, RefusalReason

Headers = list[tuple[str, str | bytes | None]]  # as the producer takes them

_NAMES = {name: f"ce_{name}" for name in ATTRIBUTES} | {"datacontenttype": "content-type"}
_ATTRIBUTES = {header: name for name, header in _NAMES.items()}
BUS_ID, TENANT, SUBJECT = "tollway_bus_id", "tollway_tenant", "tollway_subject"


def kafka_headers(message: BusMessage) -> Headers:
    """Header names and values as they go on the wire.

    Raises:
        MessageRefused: MALFORMED for an unknown attribute.
    """
    try:
        headers: Headers = [(_NAMES[name], value) for name, value in message.headers.items()]
    except KeyError as error:
        raise MessageRefused(RefusalReason.MALFORMED, f"unknown attribute {error}") from error
    headers += ((BUS_ID, message.bus_id), (TENANT, message.tenant), (SUBJECT, message.subject))
    return headers


class KafkaReceived:
    """A message from the topic. Sequences count from 1, offsets from 0."""

    __slots__ = ("_message", "body", "sequence")

    def __init__(self, message: Message) -> None:
        self._message = message
        self.sequence = (message.offset() or 0) + 1
        self.body = message.value() or b""

    def _header(self, name: str) -> str:
        return next((_text(value) for header, value in _pairs(self._message) if header == name), "")

    @property
    def bus_id(self) -> str:
        """The id given at publishing."""
        return self._header(BUS_ID)

    @property
    def tenant(self) -> str:
        """The tenant's TypeID string."""
        return self._header(TENANT)

    @property
    def subject(self) -> str:
        """The event's subject."""
        return self._header(SUBJECT)

    @property
    def headers(self) -> Mapping[str, str]:
        """CloudEvents attributes without prefix."""
        pairs = _pairs(self._message)
        return {_ATTRIBUTES[name]: _text(value) for name, value in pairs if name in _ATTRIBUTES}

    def __repr__(self) -> str:
        return f"<{self.sequence} {self.subject} {self.bus_id}>"


def _pairs(message: Message) -> list[tuple[str, object]]:
    """The headers as librdkafka gives them: a list of pairs, or nothing."""
    headers: Any = message.headers()
    return headers or []


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
