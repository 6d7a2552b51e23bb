"""Router, step 2: an event as a consumer receives it.

Invariant: what a handler emits in answer keeps the event's correlation id and names the event as its cause.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from tollway.event.v1 import event_pb2

from billing.domain.ids import Prefix, decode
from billing.runtime.db import Connection
from billing.services.actor import Cause, Link

Payload = TypeVar("Payload", bound=Message)


@dataclass(frozen=True, slots=True)
class Incoming:
    """One event: ids as UUIDs, the resource as its TypeID, the envelope as it was committed."""

    event_id: UUID
    tenant_id: UUID
    subject: str
    resource: str
    resource_version: int
    partition: int
    envelope: event_pb2.Event

    @classmethod
    def of(cls, body: bytes, partition: int = 0) -> Self:
        """The event in an envelope of the log. Raises DecodeError or InvalidId when it is none."""
        envelope = event_pb2.Event.FromString(body)
        return cls(
            decode(Prefix.EVENT, envelope.id),
            decode(Prefix.TENANT, envelope.tenant_id),
            envelope.subject,
            envelope.resource_id,
            envelope.resource_version,
            partition,
            envelope,
        )

    @property
    def correlation_id(self) -> UUID:
        """The correlation id that follow-up events keep."""
        return decode(Prefix.CORRELATION, self.envelope.correlation_id)

    def payload(self, message_type: type[Payload]) -> Payload:
        """The typed payload. Raises TypeError when the envelope holds another type."""
        message = message_type()
        if not self.envelope.data.Unpack(message):
            raise TypeError(f"{self.subject} carries {self.envelope.data.type_url}")
        return message

    def cause(self, actor: str) -> Cause:
        """What a follow-up event of this one is caused by."""
        return Cause(actor, self.correlation_id, self.event_id, self.envelope.traceparent)

    def link(self) -> Link:
        """This event as one of many causes."""
        return Link(self.event_id, self.correlation_id)


# Handles fresh events of one consumer in the router's transaction, set-based. Answers the ids of events that cannot be
# handled yet and wait without counting an attempt; anything that is raised is the events' fault, unless it is the
# database's. `now` is machine time.
Handler = Callable[[Connection, Sequence[Incoming], datetime], Awaitable[Collection[UUID]]]
