"""Publish path, step 1: events of the tenants' own.

Invariant: a custom event cannot be taken for one of the house: its subject begins with `custom.`, and its resource is
none of the house's ids. Its versions are drawn under the resource's row lock, so its events are one ordered line.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.custom_events
from google.protobuf.struct_pb2 import Struct, Value

from billing.domain.errors import Invalid, InvalidId, Violation
from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services.actor import Cause
from billing.services.business_time import business_time
from billing.services.event_log import EventNotFound
from billing.services.events import NewEvent, emit
from billing.services.subjects import CUSTOM_PREFIX
from billing.services.webhook_subjects import SubjectInvalid

EVENTS_MAX: Final = 100  # the contract holds callers to it
DEPTH_MAX: Final = 20
_SUBJECT: Final = re.compile(re.escape(CUSTOM_PREFIX) + r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_SUBJECT_LENGTH_MAX: Final = 100
_PREFIXES: Final = {prefix.value: prefix for prefix in Prefix}


class ResourceReserved(Invalid):
    """The resource of a custom event is named in your own words; ids of the house go into its data or metadata."""

    reason = "RESOURCE_RESERVED"


class PayloadInvalid(Invalid):
    """The data of a custom event is JSON of at most 20 levels, with finite numbers and without NUL."""

    reason = "PAYLOAD_INVALID"


@dataclass(frozen=True, slots=True)
class CustomEvent:
    """What a tenant tells. `causation_id` is the event it follows from, or None."""

    subject: str
    resource: str
    data: Struct
    metadata: Mapping[str, str]
    causation_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """What was committed."""

    event_id: UUID
    resource_version: int
    correlation_id: UUID


async def publish(
    tx: Connection, tenant_id: UUID, events: Sequence[CustomEvent], cause: Cause, *, now: datetime
) -> list[PublishedEvent]:
    """Commits all of them, in order, or none. `now` is machine time.

    Raises SubjectInvalid, ResourceReserved, PayloadInvalid, EventNotFound for an unknown cause, and EventTooLarge.
    """
    for place, event in enumerate(events):
        check(event, f"events[{place}]")
    causes = await _causes(tx, tenant_id, events, cause)
    versions = await _draw_versions(tx, tenant_id, [event.resource for event in events])
    at = await business_time(tx, tenant_id, now)
    told = [
        NewEvent(
            tenant_id,
            event.resource,
            version,
            event.data,
            at,
            own_cause,
            custom_subject=event.subject,
            metadata=event.metadata,
        )
        for event, version, own_cause in zip(events, versions, causes, strict=True)
    ]
    ids = await emit(tx, told, now=now)
    return [
        PublishedEvent(event_id, version, own_cause.correlation_id)
        for event_id, version, own_cause in zip(ids, versions, causes, strict=True)
    ]


def check(event: CustomEvent, path: str = "event") -> None:
    """Raises what is wrong with an event, with the field's path."""
    if len(event.subject) > _SUBJECT_LENGTH_MAX or not _SUBJECT.fullmatch(event.subject):
        told = f"is {CUSTOM_PREFIX!r} and words of a-z, 0-9 and _ with dots between"
        raise SubjectInvalid(
            f"{path}.subject: {told}",
            metadata={"subject": event.subject[:_SUBJECT_LENGTH_MAX]},
            violations=[Violation(f"{path}.subject", told)],
        )
    if _is_of_the_house(event.resource):
        raise ResourceReserved(
            metadata={"resource": event.resource},
            violations=[Violation(f"{path}.resource_id", ResourceReserved.__doc__ or "")],
        )
    _check_struct(event.data, f"{path}.data", DEPTH_MAX)
    for key, text in event.metadata.items():
        if "\0" in key + text:
            raise Invalid.field(f"{path}.metadata", "must not contain NUL")


def _is_of_the_house(resource: str) -> bool:
    prefix = _PREFIXES.get(resource.partition("_")[0])
    if prefix is None:
        return False
    try:
        decode(prefix, resource)
    except InvalidId:  # such as the ids of another system that begin alike
        return False
    return True


def _check_struct(data: Struct, path: str, depth: int) -> None:
    for key, value in data.fields.items():
        if "\0" in key:
            raise _refuse(path, "has a name with NUL")
        _check_value(value, f"{path}.{key}", depth)


def _check_value(value: Value, path: str, depth: int) -> None:
    if depth == 0:
        raise _refuse(path, f"is deeper than {DEPTH_MAX} levels")
    match value.WhichOneof("kind"):
        case "number_value" if not math.isfinite(value.number_value):
            raise _refuse(path, "is a number that JSON cannot write")
        case "string_value" if "\0" in value.string_value:
            raise _refuse(path, "has text with NUL")
        case "struct_value":
            _check_struct(value.struct_value, path, depth - 1)
        case "list_value":
            for place, element in enumerate(value.list_value.values):
                _check_value(element, f"{path}[{place}]", depth - 1)


def _refuse(path: str, told: str) -> PayloadInvalid:
    shown = path if len(path) <= 200 else f"{path[:197]}..."
    return PayloadInvalid(
        f"{shown} {told}", metadata={"place": shown}, violations=[Violation(shown, told)]
    )


async def _causes(
    tx: Connection, tenant_id: UUID, events: Sequence[CustomEvent], cause: Cause
) -> list[Cause]:
    """The cause of each: the call, or the event that it names, whose correlation it keeps."""
    named = sorted({event.causation_id for event in events if event.causation_id is not None})
    rows = (
        await queries.custom_events.list_correlations(tx, tenant_id=tenant_id, event_ids=named)
        if named
        else []
    )
    correlations = {row.id: row.correlation_id for row in rows}
    causes = []
    for event in events:
        if event.causation_id is None:
            causes.append(cause)
            continue
        if event.causation_id not in correlations:
            raise EventNotFound(metadata={"event": encode(Prefix.EVENT, event.causation_id)})
        correlation_id = correlations[event.causation_id]
        causes.append(Cause(cause.actor, correlation_id, event.causation_id, cause.traceparent))
    return causes


async def _draw_versions(tx: Connection, tenant_id: UUID, resources: Sequence[str]) -> list[int]:
    """The next version of each event's resource."""
    counts = Counter(resources)
    names = sorted(counts)
    rows = await queries.custom_events.draw_custom_versions(
        tx, tenant_id=tenant_id, resources=names, events=[counts[name] for name in names]
    )
    drawn = {row.resource: row.version - counts[row.resource] for row in rows}
    versions = []
    for resource in resources:
        drawn[resource] += 1
        versions.append(drawn[resource])
    return versions
