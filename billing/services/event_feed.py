"""Publish path, beside it: the feed, the pull twin of the webhooks.

Invariant: each event of a tenant stands in the feed once, by the inbox of the consumer `feed`; whoever reads on from a
cursor gets everything behind it once, and in order per resource.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.event_feed

from billing.domain.errors import Invalid, OutOfRange
from billing.runtime.db import Connection
from billing.services.incoming import Incoming
from billing.services.webhook_subjects import check_patterns

READ_MAX: Final = 100  # events at once: what one reader holds in memory
CURSOR_LENGTH_MAX: Final = 4096
_BINDING_BYTES: Final = 4
_PARTITIONS_MAX: Final = 256
_POSITION_MAX: Final = 2**63 - 1


def hint_topic(tenant_id: UUID) -> str:
    """What the router hints on when a tenant's feed has grown."""
    return f"feed.{tenant_id.hex}"


# Position by partition; a partition that is not named stands at 0.
Positions = Mapping[int, int]


class CursorInvalid(Invalid):
    """The cursor is none of this tenant's feed; give one as it was sent, or start from the beginning."""

    reason = "CURSOR_INVALID"


class CursorTooOld(OutOfRange):
    """What comes behind the cursor is no longer kept; start from the beginning, or list the log."""

    reason = "CURSOR_TOO_OLD"


@dataclass(frozen=True, slots=True)
class FeedFilter:
    """Which events are sent. `subjects` are checked patterns; no resource means all."""

    subjects: Sequence[str]
    resource: str = ""

    @classmethod
    def of(cls, subjects: Sequence[str], resource: str = "") -> FeedFilter:
        """Checks the patterns; none given means all. Raises SubjectInvalid."""
        return cls(check_patterns(subjects), resource)

    @property
    def exact(self) -> list[str]:
        """The patterns that are whole subjects."""
        return [pattern for pattern in self.subjects if not pattern.endswith("*")]

    @property
    def beginnings(self) -> list[str]:
        """What the other patterns begin with."""
        return [pattern[:-1] for pattern in self.subjects if pattern.endswith("*")]


@dataclass(frozen=True, slots=True)
class FeedItem:
    """A wanted event, and the positions to read on from behind it."""

    envelope: bytes
    positions: Positions


@dataclass(frozen=True, slots=True)
class FeedPage:
    """The wanted events of one read, and where the next one begins; `full` when more may be there already."""

    items: list[FeedItem]
    positions: Positions
    full: bool


async def append(tx: Connection, incoming: Sequence[Incoming], now: datetime) -> Collection[UUID]:
    """The handler of the consumer `feed`; no event ever waits."""
    await append_rows(
        tx,
        [event.partition for event in incoming],
        [event.tenant_id for event in incoming],
        [event.event_id for event in incoming],
    )
    return ()


async def append_rows(
    tx: Connection,
    partitions: Sequence[int],
    tenant_ids: Sequence[UUID],
    event_ids: Sequence[UUID],
) -> None:
    """Events in columns, in order; the caller holds the partitions' position rows."""
    await queries.event_feed.append_to_feed(
        tx, partitions=partitions, tenant_ids=tenant_ids, event_ids=event_ids
    )


async def present(connection: Connection) -> dict[int, int]:
    """How far the feed has come in each partition."""
    rows = await queries.event_feed.list_feed_positions(connection)
    return {row.partition: row.feed_position for row in rows}


async def beginning(connection: Connection) -> dict[int, int]:
    """Behind what is no longer kept in each partition."""
    rows = await queries.event_feed.list_feed_positions(connection)
    return {row.partition: row.feed_floor for row in rows}


async def read(
    snapshot: Connection, tenant_id: UUID, known: Positions, wanted: FeedFilter
) -> FeedPage:
    """The next events behind the known positions, at most READ_MAX looked at.

    `snapshot` reads one moment: when nothing was cut off, the page ends where the partitions stood then, so that the
    cursor of a quiet tenant moves on as well. Raises CursorInvalid for positions that were never reached, and
    CursorTooOld for those below what is kept.
    """
    rows = await queries.event_feed.list_feed_positions(snapshot)
    standing = {row.partition: row.feed_position for row in rows}
    if any(position > standing.get(partition, 0) for partition, position in known.items()):
        raise CursorInvalid()
    if any(known.get(row.partition, 0) < row.feed_floor for row in rows):
        raise CursorTooOld()
    return await _read_on(snapshot, tenant_id, known, wanted, standing)


async def _read_on(
    snapshot: Connection,
    tenant_id: UUID,
    known: Positions,
    wanted: FeedFilter,
    standing: dict[int, int],
) -> FeedPage:
    rows = await queries.event_feed.read_feed(
        snapshot,
        tenant_id=tenant_id,
        resource=wanted.resource,
        subjects=wanted.exact,
        beginnings=wanted.beginnings,
        partitions=list(standing),
        positions=[known.get(partition, 0) for partition in standing],
        most=READ_MAX,
    )
    reached = dict(known)
    items = []
    for row in rows:
        reached[row.partition] = row.position
        if row.envelope is not None:
            items.append(FeedItem(row.envelope, dict(reached)))
    full = len(rows) == READ_MAX
    return FeedPage(items, reached if full else standing, full)


def encode_cursor(tenant_id: UUID, positions: Positions) -> str:
    """The opaque text of a vector of positions, bound to the tenant."""
    raw = bytearray(_binding(tenant_id))
    for partition in range(max(positions, default=-1) + 1):
        position = positions.get(partition, 0)
        while position > 0x7F:
            raw.append(position & 0x7F | 0x80)
            position >>= 7
        raw.append(position)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode_cursor(tenant_id: UUID, text: str) -> Positions:
    """The vector in a cursor. Raises CursorInvalid."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise CursorInvalid() from error
    if raw[:_BINDING_BYTES] != _binding(tenant_id):
        raise CursorInvalid()
    positions = _varints(raw[_BINDING_BYTES:])
    if len(positions) > _PARTITIONS_MAX or max(positions, default=0) > _POSITION_MAX:
        raise CursorInvalid()
    return dict(enumerate(positions))


def _varints(raw: bytes) -> list[int]:
    found = []
    value = shift = 0
    for byte in raw:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            found.append(value)
            value = shift = 0
    if shift:
        raise CursorInvalid()
    return found


def _binding(tenant_id: UUID) -> bytes:
    return hashlib.sha256(b"event feed" + tenant_id.bytes).digest()[:_BINDING_BYTES]
