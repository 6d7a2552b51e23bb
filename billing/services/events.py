"""Publish path, step 1, and the consumers' door: `emit` out, `consume_once` in.

Invariant: an event is committed with the fact it tells, in the same transaction, and so is its publication; a
consumer's mark that it has handled an event is committed with the effect. Nobody writes these tables but here.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Final
from uuid import UUID

import queries.events
import queries.inbox
from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from tollway.event.v1 import event_pb2
from tollway.options.v1 import subject_pb2

from billing.domain.errors import Invalid, Unavailable
from billing.domain.ids import Prefix, encode
from billing.runtime import hints
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services.actor import Cause

ENVELOPE_BYTES_MAX: Final = 256 * 1024
LINKS_MAX: Final = 32
SCHEMA_VERSION: Final = 1


class ClockSkewed(Unavailable):
    """This process's time is more than 60 s away from the database's; it must not make ids."""


class EventTooLarge(Invalid):
    """An event may not exceed 256 KiB; send less in one call."""

    reason = "EVENT_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A fact to tell. `resource` is a TypeID; its version is drawn under the resource's row lock.

    The payload names the subject, but for a custom event, which has its own, and the tenant's annotations.
    """

    tenant_id: UUID
    resource: str
    resource_version: int
    payload: Message
    occurred_at: datetime
    cause: Cause
    custom_subject: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


async def emit(tx: Connection, events: Sequence[NewEvent], *, now: datetime) -> list[UUID]:
    """Writes the events and their publications, in order, and returns their ids.

    `now` is machine time; the database refuses an id that is more than 60 s away from its own clock.
    Raises EventTooLarge, so that no undeliverable event is ever committed.
    """
    if not events:
        return []
    ids = [new_id(now) for _ in events]
    envelopes = [_envelope(event, identity) for event, identity in zip(events, ids, strict=True)]
    written = await queries.events.insert_events(
        tx,
        ids_made_at=now,
        ids=ids,
        tenant_ids=[event.tenant_id for event in events],
        subjects=[envelope.subject for envelope in envelopes],
        resources=[event.resource for event in events],
        resource_versions=[event.resource_version for event in events],
        correlation_ids=[event.cause.correlation_id for event in events],
        causation_ids=[event.cause.causation_id for event in events],
        schema_versions=[SCHEMA_VERSION for _ in events],
        occurred_ats=[event.occurred_at for event in events],
        envelopes=[_encoded(envelope) for envelope in envelopes],
        hashes=[resource_hash(event.tenant_id, event.resource) for event in events],
    )
    if written != len(events):
        raise ClockSkewed()
    await _write_links(tx, events, ids)
    hints.wake(hints.OUTBOX)
    return ids


async def consume_once(
    tx: Connection, consumer: str, events: Sequence[tuple[UUID, UUID]]
) -> set[UUID]:
    """Marks (tenant id, event id) pairs as handled by `consumer`; returns the ids that were not marked before.

    A concurrent second caller waits for the first and then gets nothing.
    """
    pairs = sorted(events, key=lambda pair: pair[1])
    fresh = await queries.inbox.insert_inbox(
        tx,
        consumer=consumer,
        tenant_ids=[tenant for tenant, _ in pairs],
        event_ids=[event for _, event in pairs],
    )
    return set(fresh)


def resource_hash(tenant_id: UUID, resource: str) -> int:
    """What the shard is drawn from: the same for ever, in every process."""
    return zlib.crc32(tenant_id.bytes + resource.encode())


def subject_of(payload_type: type[Message]) -> str:
    """The subject that a payload message names in its option."""
    return _subject_of(payload_type.DESCRIPTOR)


@cache
def _subject_of(descriptor: Descriptor) -> str:
    subject: str = descriptor.GetOptions().Extensions[subject_pb2.subject]
    if not subject:
        raise TypeError(f"{descriptor.full_name} has no subject option.")
    return subject


def _envelope(event: NewEvent, identity: UUID) -> event_pb2.Event:
    cause = event.cause
    envelope = event_pb2.Event(
        id=encode(Prefix.EVENT, identity),
        subject=event.custom_subject or subject_of(type(event.payload)),
        tenant_id=encode(Prefix.TENANT, event.tenant_id),
        resource_id=event.resource,
        resource_version=event.resource_version,
        correlation_id=encode(Prefix.CORRELATION, cause.correlation_id),
        causation_id=encode(Prefix.EVENT, cause.causation_id) if cause.causation_id else "",
        actor=cause.actor,
        schema_version=SCHEMA_VERSION,
        traceparent=cause.traceparent,
        metadata=event.metadata,
        links=[
            event_pb2.EventLink(
                event_id=encode(Prefix.EVENT, link.event_id),
                correlation_id=encode(Prefix.CORRELATION, link.correlation_id),
            )
            for link in cause.links[:LINKS_MAX]
        ],
    )
    envelope.occurred_at.FromDatetime(event.occurred_at)
    packed = Any()
    packed.Pack(event.payload, deterministic=True)
    envelope.data.CopyFrom(packed)
    return envelope


def _encoded(envelope: event_pb2.Event) -> bytes:
    encoded = envelope.SerializeToString(deterministic=True)
    if len(encoded) > ENVELOPE_BYTES_MAX:
        raise EventTooLarge(metadata={"size": str(len(encoded)), "limit": str(ENVELOPE_BYTES_MAX)})
    return encoded


async def _write_links(tx: Connection, events: Sequence[NewEvent], ids: Iterable[UUID]) -> None:
    links = [
        (event.tenant_id, identity, link, event.cause.correlation_id)
        for event, identity in zip(events, ids, strict=True)
        for link in event.cause.links[:LINKS_MAX]
    ]
    if links:
        await queries.events.insert_event_links(
            tx,
            tenant_ids=[tenant for tenant, _, _, _ in links],
            event_ids=[identity for _, identity, _, _ in links],
            linked_event_ids=[link.event_id for _, _, link, _ in links],
            linked_correlation_ids=[link.correlation_id for _, _, link, _ in links],
            correlation_ids=[correlation for _, _, _, correlation in links],
        )
