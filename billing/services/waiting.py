"""Router, beside it: what waits, and why each of it does.

Invariant: the reason that is told is the one that the router itself goes by: the same rows, the same order, the same
pauses, read in one statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import queries.waiting
from queries.waiting import ListWaitingRow

from billing.runtime.db import Connection
from billing.services.consumers import ORDERED, Wanted
from billing.services.routing import ANY_CONSUMER, LIVE

_FOLDING: Final = "usage"
FIRST: Final = (UUID(int=0), "", LIVE)


class WaitReason(StrEnum):
    """Why an event waits."""

    BACKOFF = "backoff"
    FOLLOWER = "follower"
    UNKNOWN_SUBJECT = "unknown_subject"
    PAUSED = "paused"
    USAGE_PERIOD_TAKEN = "usage_period_taken"
    DEFERRED = "deferred"
    DUE = "due"
    UNKNOWN_CONSUMER = "unknown_consumer"


@dataclass(frozen=True, slots=True)
class WaitingFilter:
    """Of which consumer, tenant and resource; None means of all."""

    consumer: str | None = None
    tenant_id: UUID | None = None
    resource: str | None = None


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """A row that waits, and why."""

    row: ListWaitingRow
    reason: WaitReason

    @property
    def key(self) -> tuple[UUID, str, UUID]:
        """Its place in the list."""
        return self.row.event_id, self.row.consumer, self.row.replay_id


async def list_waiting(
    connection: Connection,
    given: WaitingFilter,
    wanted: Wanted,
    *,
    after: tuple[UUID, str, UUID] = FIRST,
    now: datetime,
    limit: int,
) -> Sequence[WaitingEvent]:
    """What waits behind `after`, by event, consumer and replay; at most `limit`."""
    after_event, after_consumer, after_replay = after
    rows = await queries.waiting.list_waiting(
        connection,
        consumer=given.consumer,
        tenant_id=given.tenant_id,
        resource=given.resource,
        ordered=[ANY_CONSUMER, *sorted(ORDERED)],
        after_event=after_event,
        after_consumer=after_consumer,
        after_replay=after_replay,
        most=limit,
    )
    return [WaitingEvent(row, _reason(row, wanted, now)) for row in rows]


def _reason(row: ListWaitingRow, wanted: Wanted, now: datetime) -> WaitReason:
    """The first that applies, as the router asks."""
    due = row.next_attempt_at is None or row.next_attempt_at <= now
    reasons = (
        (row.paused, WaitReason.PAUSED),
        (row.behind_event_id is not None, WaitReason.FOLLOWER),
        (row.consumer == ANY_CONSUMER, WaitReason.UNKNOWN_SUBJECT),
        (row.consumer not in wanted, WaitReason.UNKNOWN_CONSUMER),
        (row.attempts > 0, WaitReason.BACKOFF),
        (row.parked or (row.last_error != "" and due), WaitReason.DUE),
        (row.consumer == _FOLDING, WaitReason.USAGE_PERIOD_TAKEN),
    )
    return next((reason for applies, reason in reasons if applies), WaitReason.DEFERRED)
