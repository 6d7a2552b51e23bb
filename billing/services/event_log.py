"""Publish path, beside it: reading the log. One event with its dispatch, and the trail of a cause or a resource.

Invariant: a trail is cut only by named limits, and says so; what it shows is what was committed, envelope for envelope.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import queries.event_log
from queries.event_log import ListTrailRow

from billing.domain.errors import NotFound
from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection

TRAIL_EVENTS_MAX: Final = 1_000
TRAIL_CORRELATIONS_MAX: Final = 1_000
LINK_DEPTH_DEFAULT: Final = 4
ROOT: Final = -1


class EventNotFound(NotFound):
    """There is no such event in this tenant."""

    reason = "EVENT_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An envelope as it was committed; the status is pending, dispatched, failed or dead_letter."""

    envelope: bytes
    dispatch_status: str


@dataclass(frozen=True, slots=True)
class TrailNode:
    """One event of a trail: the index of the event that it follows from (-1 at a root), and how many links away."""

    envelope: bytes
    parent: int
    link_distance: int


@dataclass(frozen=True, slots=True)
class Trail:
    """The events of a trail, oldest first; `truncated` when there are more."""

    nodes: list[TrailNode]
    truncated: bool


async def get_event(tx: Connection, tenant_id: UUID, event_id: UUID) -> LoggedEvent:
    """An event of the tenant with the state of its first publication. Raises EventNotFound."""
    row = await queries.event_log.get_logged_event(tx, event_id=event_id, tenant_id=tenant_id)
    if row is None:
        raise EventNotFound(metadata={"event": encode(Prefix.EVENT, event_id)})
    return LoggedEvent(row.envelope, row.dispatch_status)


async def correlation_of_event(tx: Connection, tenant_id: UUID, event_id: UUID) -> UUID:
    """The correlation id of an event. Raises EventNotFound."""
    found = await queries.event_log.get_correlation_of_event(
        tx, event_id=event_id, tenant_id=tenant_id
    )
    if found is None:
        raise EventNotFound(metadata={"event": encode(Prefix.EVENT, event_id)})
    return found


async def correlations_of_resource(
    tx: Connection, tenant_id: UUID, resource: str
) -> frozenset[UUID]:
    """The correlation ids of the resource's latest TRAIL_EVENTS_MAX events. Raises EventNotFound."""
    found = await queries.event_log.list_correlations_of_resource(
        tx, tenant_id=tenant_id, resource=resource, most=TRAIL_EVENTS_MAX
    )
    if not found:
        message = f"No event of this tenant is about {resource}."
        raise EventNotFound(message, metadata={"event": resource})
    return frozenset(found)


async def get_trail(
    tx: Connection, tenant_id: UUID, starts: Set[UUID], *, link_depth: int = LINK_DEPTH_DEFAULT
) -> Trail:
    """All events of these correlation ids and of those linked to them, in either direction, up to a depth.

    Raises EventNotFound when the tenant has no event under the correlation ids.
    """
    distances, cut = await _linked(tx, tenant_id, starts, link_depth)
    rows = await queries.event_log.list_trail(
        tx,
        tenant_id=tenant_id,
        correlation_ids=sorted(distances),
        most=TRAIL_EVENTS_MAX + 1,
    )
    if not starts <= {row.correlation_id for row in rows[:TRAIL_EVENTS_MAX]}:
        rows = await _nearest(tx, tenant_id, starts)
        cut = True
    shown = rows[:TRAIL_EVENTS_MAX]
    return Trail(_nodes(shown, distances), cut or len(rows) > len(shown))


async def _nearest(tx: Connection, tenant_id: UUID, starts: Set[UUID]) -> list[ListTrailRow]:
    """The starting correlations' own events: linked ones, older and too many, must not crowd them out."""
    rows = await queries.event_log.list_trail(
        tx, tenant_id=tenant_id, correlation_ids=sorted(starts), most=TRAIL_EVENTS_MAX + 1
    )
    if not rows:
        raise EventNotFound(metadata={"event": encode(Prefix.CORRELATION, min(starts))})
    return rows


async def _linked(
    tx: Connection, tenant_id: UUID, starts: Set[UUID], link_depth: int
) -> tuple[dict[UUID, int], bool]:
    """All correlation ids within `link_depth` links with their distances, and whether some were left out."""
    distances = dict.fromkeys(starts, 0)
    frontier = sorted(starts)
    for distance in range(1, link_depth + 1):
        room = TRAIL_CORRELATIONS_MAX - len(distances)
        found = await queries.event_log.list_linked_correlations(
            tx,
            tenant_id=tenant_id,
            correlation_ids=frontier,
            known_ids=sorted(distances),
            most=room + 1,
        )
        frontier = found[:room]
        distances |= dict.fromkeys(frontier, distance)
        if len(found) > room:
            return distances, True
        if not frontier:
            break
    return distances, False


def _nodes(rows: Sequence[ListTrailRow], distances: dict[UUID, int]) -> list[TrailNode]:
    places = {row.id: place for place, row in enumerate(rows)}
    return [
        TrailNode(
            row.envelope,
            ROOT if row.causation_id is None else places.get(row.causation_id, ROOT),
            distances[row.correlation_id],
        )
        for row in rows
    ]
