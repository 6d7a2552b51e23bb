"""Publish path, beside it: browsing the log.

Invariant: a page looks at a bounded number of events, however few of them match; so it may hold fewer than were asked
for, and the next one goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import queries.event_list

from billing.domain.errors import InvalidPeriod
from billing.runtime.db import Connection
from billing.services.event_log import LoggedEvent
from billing.services.webhook_subjects import EVERYTHING, check_patterns

LOOK_MAX: Final = 10_000
DISPATCHED: Final = "dispatched"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_TIME_SHIFT: Final = 80  # a UUIDv7 begins with 48 bits of milliseconds
_FIRST: Final = UUID(int=0)
_LAST: Final = UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class ListFilter:
    """Which events; what is empty or None matches all. Ids `first` to `last`, both included, are a range of time."""

    subjects: Sequence[str] = (EVERYTHING,)
    resource: str = ""
    correlation_id: UUID | None = None
    first: UUID = _FIRST
    last: UUID = _LAST
    dispatch_status: str = ""

    @classmethod
    def of(
        cls,
        subjects: Sequence[str] = (),
        resource: str = "",
        correlation_id: UUID | None = None,
        span: tuple[datetime | None, datetime | None] = (None, None),
        dispatch_status: str = "",
    ) -> ListFilter:
        """Checks the patterns and the half-open range, either end of which may be None.

        Raises SubjectInvalid and InvalidPeriod.
        """
        start, end = span
        if start is not None and end is not None and end <= start:
            raise InvalidPeriod("time_range: the end must be after the start.")
        first = _FIRST if start is None else UUID(int=_milliseconds(start) << _TIME_SHIFT)
        last = _LAST if end is None else UUID(int=max((_milliseconds(end) << _TIME_SHIFT) - 1, 0))
        return cls(check_patterns(subjects), resource, correlation_id, first, last, dispatch_status)


@dataclass(frozen=True, slots=True)
class ListPage:
    """Events with their ids, newest first; `reached` is the id that the next page goes on below, None at the end."""

    events: list[tuple[UUID, LoggedEvent]]
    reached: UUID | None


async def list_events(
    tx: Connection,
    tenant_id: UUID,
    wanted: ListFilter,
    *,
    before: UUID | None,
    most: int,
    look_max: int = LOOK_MAX,
) -> ListPage:
    """At most `most` events of the tenant with ids below `before`."""
    last = wanted.last if before is None else min(wanted.last, UUID(int=max(before.int - 1, 0)))
    rows = await queries.event_list.list_logged_events(
        tx,
        tenant_id=tenant_id,
        undispatched=wanted.dispatch_status not in ("", DISPATCHED),
        dispatch_status=wanted.dispatch_status,
        resource=wanted.resource,
        correlation_id=wanted.correlation_id,
        first=wanted.first,
        last=last,
        any_subject=EVERYTHING in wanted.subjects,
        subjects=[pattern for pattern in wanted.subjects if not pattern.endswith("*")],
        beginnings=[pattern[:-1] for pattern in wanted.subjects if pattern.endswith(".*")],
        look_max=look_max,
        most=most + 1,
    )
    events = [
        (row.id, LoggedEvent(row.envelope, row.dispatch_status))
        for row in rows
        if row.id is not None and row.envelope is not None and row.dispatch_status is not None
    ]
    if len(events) > most:
        return ListPage(events[:most], events[most - 1][0])
    return ListPage(events, rows[0].reached if rows[0].looked >= look_max else None)


def _milliseconds(instant: datetime) -> int:
    """Up to the next whole one: an id's time is exact to the millisecond only."""
    return -((_EPOCH - instant) // _MILLISECOND)
