"""Replay path, step 1: which events a replay is about, frozen.

Invariant: what is planned, counted again and armed is selected by the same conditions, and the range of time is closed
before anything is counted: an end that is open or ahead is set to a moment that has passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self, TypedDict
from uuid import UUID

from billing.domain.errors import Invalid
from billing.domain.replay import EventStatus
from billing.services.webhook_subjects import EVERYTHING, check_patterns

# How far the end of a range stays behind now, so that the youngest events are left to live traffic.
END_MARGIN: Final = timedelta(seconds=1)
# An id is made up to 60 s before its event is written, and a transaction ends within 60 s: what is older is complete.
SETTLED_AFTER: Final = timedelta(seconds=120)
EVENT_IDS_MAX: Final = 1_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_TIME_SHIFT: Final = 80  # a UUIDv7 begins with 48 bits of milliseconds


class Conditions(TypedDict):
    """The filter as the statements over the log take it."""

    tenant_id: UUID | None
    first: UUID
    last: UUID
    any_subject: bool
    subjects: list[str]
    beginnings: list[str]
    resource: str | None
    correlation_id: UUID | None
    event_ids: list[UUID] | None
    status: str


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open range of the log's time, in milliseconds since 1970: what the first 48 bits of an id tell."""

    start_ms: int
    end_ms: int

    @property
    def start(self) -> datetime:
        """The first instant inside."""
        return _EPOCH + self.start_ms * _MILLISECOND

    @property
    def end(self) -> datetime:
        """The first instant after it."""
        return _EPOCH + self.end_ms * _MILLISECOND

    @property
    def first(self) -> UUID:
        """The least id inside."""
        return UUID(int=self.start_ms << _TIME_SHIFT)

    @property
    def last(self) -> UUID:
        """The greatest id inside."""
        return UUID(int=max((self.end_ms << _TIME_SHIFT) - 1, 0))

    def beginning_with(self, event_id: UUID | None) -> Span:
        """The same range from the millisecond of this event on; empty without one."""
        start_ms = self.end_ms if event_id is None else event_id.int >> _TIME_SHIFT
        return replace(self, start_ms=start_ms)


@dataclass(frozen=True, slots=True)
class ReplayFilter:
    """Which events of a tenant, or of all when it is None; what is empty matches all. Subjects are patterns, see
    webhook_subjects.py.
    """

    tenant_id: UUID | None
    span: Span
    subjects: tuple[str, ...] = ()
    resource: str = ""
    correlation_id: UUID | None = None
    event_ids: tuple[UUID, ...] = ()
    status: EventStatus = EventStatus.ANY

    def conditions(self) -> Conditions:
        """The arguments of the statements that select by this filter."""
        first, last = self.span.first, self.span.last
        if self.event_ids:
            first, last = max(first, min(self.event_ids)), min(last, max(self.event_ids))
        return Conditions(
            tenant_id=self.tenant_id,
            first=first,
            last=last,
            any_subject=not self.subjects or EVERYTHING in self.subjects,
            subjects=[pattern for pattern in self.subjects if not pattern.endswith("*")],
            beginnings=[p[:-1] for p in self.subjects if p.endswith(".*")],
            resource=self.resource or None,
            correlation_id=self.correlation_id,
            event_ids=list(self.event_ids) or None,
            status=str(self.status),
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values, from which `of_json` makes the same filter."""
        return {
            "tenant": self.tenant_id.hex if self.tenant_id else "",
            "start_ms": self.span.start_ms,
            "end_ms": self.span.end_ms,
            "subjects": list(self.subjects),
            "resource": self.resource,
            "correlation": self.correlation_id.hex if self.correlation_id else "",
            "events": [event_id.hex for event_id in self.event_ids],
            "status": str(self.status),
        }

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Self:
        """The filter that `as_json` told of."""
        return cls(
            UUID(values["tenant"]) if values["tenant"] else None,
            Span(values["start_ms"], values["end_ms"]),
            tuple(values["subjects"]),
            values["resource"],
            UUID(values["correlation"]) if values["correlation"] else None,
            tuple(UUID(event_id) for event_id in values["events"]),
            EventStatus(values["status"]),
        )


@dataclass(frozen=True, slots=True)
class FilterDraft:
    """A filter as asked for. A start or end of None is open, a tenant of None is all of them."""

    tenant_id: UUID | None
    subjects: tuple[str, ...] = ()
    resource: str = ""
    correlation_id: UUID | None = None
    event_ids: tuple[UUID, ...] = ()
    start: datetime | None = None
    end: datetime | None = None
    status: EventStatus = EventStatus.ANY

    def freeze(self, now: datetime) -> ReplayFilter:
        """The filter with its range closed at or before `now` (machine time), less END_MARGIN.

        Raises SubjectInvalid, or Invalid for a range without time in it or too many events.
        """
        if len(self.event_ids) > EVENT_IDS_MAX:
            raise Invalid.field("filter.event_ids", f"at most {EVENT_IDS_MAX} events")
        if self.start and self.end and self.start >= self.end:
            raise Invalid.field("filter.time_range", "the end must be later than the start")
        latest = now - END_MARGIN
        end = latest if self.end is None else min(self.end, latest)
        span = Span(_milliseconds(self.start or _EPOCH), _milliseconds(end))
        if span.start_ms >= span.end_ms:
            raise Invalid.field("filter.time_range", "holds no time that has passed")
        subjects = tuple(check_patterns(self.subjects)) if self.subjects else ()
        events = tuple(sorted(set(self.event_ids)))
        return ReplayFilter(
            self.tenant_id, span, subjects, self.resource, self.correlation_id, events, self.status
        )


def _milliseconds(instant: datetime) -> int:
    """Rounded up: an id of this millisecond is at its very beginning, so before any later part of it."""
    return -((_EPOCH - instant) // _MILLISECOND)
