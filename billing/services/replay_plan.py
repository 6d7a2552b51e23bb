"""Replay path, step 1: a dry run that counts what a replay would send and says what to think about.

Invariant: planning changes nothing and stores nothing. No target is a default, and a plan with more events than asked
for is refused with its counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import queries.replays

from billing.domain.errors import Invalid, Precondition
from billing.runtime.db import Connection
from billing.services import tenants
from billing.services.consumers import Wanted
from billing.services.replay_filter import SETTLED_AFTER, FilterDraft, ReplayFilter
from billing.services.replay_token import ReplayPlan
from billing.services.subjects import CUSTOM_PREFIX, known_subjects
from billing.services.webhook_subjects import wants

MAX_EVENTS_DEFAULT: Final = 1_000
MAX_EVENTS_CEILING: Final = 1_000_000
RATE_CEILING: Final = 100_000
BUS: Final = "bus"
_SHOWN_SUBJECTS: Final = 3


class TargetMissing(Invalid):
    """Name a target for the replay, such as the bus; there is none by default."""

    reason = "REPLAY_TARGET_MISSING"


class TooLarge(Precondition):
    """The plan matches more events than max_events."""

    reason = "REPLAY_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class PlanDraft:
    """What to plan. `max_events` 0 is the default; `rate_per_second` 0 is as fast as the bus takes them."""

    filter: FilterDraft
    targets: Sequence[str]
    max_events: int = 0
    rate_per_second: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What a filter matches: events by subject, by the consumer that has handled them, by their way to the bus."""

    subjects: Mapping[str, int]
    processed: Mapping[str, int]
    unpublished: Mapping[str, int]
    first_id: UUID | None
    last_id: UUID | None

    @property
    def matched(self) -> int:
        """How many events."""
        return sum(self.subjects.values())


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan and what is shown with it. `wanted`: how many of the events each consumer is to handle."""

    plan: ReplayPlan
    found: Found
    wanted: Mapping[str, int]
    warnings: Sequence[str]


async def plan_replay(
    tx: Connection, draft: PlanDraft, wanted: Wanted, *, now: datetime
) -> Planned:
    """Resolves the filter and counts. `tx` reads one snapshot.

    Raises TargetMissing, TooLarge, SubjectInvalid, Invalid or TenantNotFound.
    """
    if not draft.targets:
        raise TargetMissing()
    most = draft.max_events or MAX_EVENTS_DEFAULT
    if not 0 < most <= MAX_EVENTS_CEILING:
        raise Invalid.field("max_events", f"must be from 0 to {MAX_EVENTS_CEILING}")
    if not 0 <= draft.rate_per_second <= RATE_CEILING:
        raise Invalid.field("rate_per_second", f"must be from 0 to {RATE_CEILING}")
    await tenants.get_tenant(tx, draft.filter.tenant_id)
    frozen = draft.filter.freeze(now)
    found = await find_matching(tx, frozen, list(wanted))
    if found.matched > most:
        raise _too_large(found, most)
    if draft.filter.start is None:
        frozen = replace(frozen, span=frozen.span.beginning_with(found.first_id))
    plan = ReplayPlan(
        frozen,
        tuple(dict.fromkeys(draft.targets)),
        most,
        draft.rate_per_second,
        found.matched,
        found.first_id,
        found.last_id,
    )
    by_consumer = _wanted_counts(found, wanted)
    return Planned(plan, found, by_consumer, _warnings(draft, plan, found, by_consumer, now))


async def find_matching(
    tx: Connection, selected: ReplayFilter, consumers: Sequence[str] = ()
) -> Found:
    """Counts what a filter matches, up to one more than MAX_EVENTS_CEILING."""
    rows = await queries.replays.summarize_matching(
        tx, **selected.conditions(), most=MAX_EVENTS_CEILING + 1, consumers=consumers
    )
    firsts = [row.first_id for row in rows if row.first_id is not None]
    lasts = [row.last_id for row in rows if row.last_id is not None]

    def counts(kind: str) -> dict[str, int]:
        return {row.name: row.events for row in rows if row.kind == kind}

    return Found(
        counts("subject"),
        counts("consumer"),
        counts("dispatch"),
        min(firsts, default=None),
        max(lasts, default=None),
    )


def _too_large(found: Found, most: int) -> TooLarge:
    largest = sorted(found.subjects.items(), key=lambda item: -item[1])[:_SHOWN_SUBJECTS]
    shown = ", ".join(f"{subject} {count}" for subject, count in largest)
    least = "at least " if found.matched > MAX_EVENTS_CEILING else ""
    return TooLarge(
        f"The plan matches {least}{found.matched} events ({shown}) and max_events is {most};"
        f" narrow the filter, or allow more, at most {MAX_EVENTS_CEILING}.",
        metadata={"matched": str(found.matched), "max_events": str(most)},
    )


def _wanted_counts(found: Found, wanted: Wanted) -> dict[str, int]:
    return {
        consumer: sum(
            count
            for subject, count in found.subjects.items()
            if subjects is None or subject in subjects
        )
        for consumer, subjects in wanted.items()
    }


def _warnings(
    draft: PlanDraft, plan: ReplayPlan, found: Found, wanted: Mapping[str, int], now: datetime
) -> list[str]:
    return [
        *_range_warnings(draft.filter, plan, now),
        *_filter_warnings(plan, found),
        *_handling_warnings(found, wanted),
        *_duration_warnings(plan),
    ]


def _range_warnings(asked: FilterDraft, plan: ReplayPlan, now: datetime) -> list[str]:
    warnings = []
    span = plan.filter.span
    if asked.end is not None and asked.end > span.end:
        warnings.append(f"The range ends ahead of now; it was cut to {span.end.isoformat()}.")
    if span.end > now - SETTLED_AFTER:
        seconds = int(SETTLED_AFTER.total_seconds())
        warnings.append(
            f"The range is still being written: what began in the last {seconds} s may yet be committed into it. If so,"
            " the start is refused as drifted; then plan again."
        )
    return warnings


def _filter_warnings(plan: ReplayPlan, found: Found) -> list[str]:
    warnings = []
    if not found.matched:
        warnings.append("Nothing matches.")
    known = known_subjects()
    warnings += [
        f"No subject that this release knows matches {pattern}."
        for pattern in plan.filter.subjects
        if not pattern.startswith(CUSTOM_PREFIX)
        and not any(wants([pattern], subject) for subject in known)
    ]
    asked = len(plan.filter.event_ids)
    if asked > found.matched:
        warnings.append(f"{asked - found.matched} of the {asked} events named do not match.")
    return warnings


def _handling_warnings(found: Found, wanted: Mapping[str, int]) -> list[str]:
    warnings = []
    for consumer, count in wanted.items():
        lacking = count - found.processed.get(consumer, 0)
        if lacking > 0:
            warnings.append(
                f"{consumer} has not handled {lacking} of the {count} events that it wants: it will handle these now."
            )
    dead = found.unpublished.get("dead_letter", 0)
    if dead:
        warnings.append(
            f"{dead} events never reached the bus (dead letters): they are left out and count as failed."
        )
    queued = sum(found.unpublished.values()) - dead
    if queued:
        warnings.append(
            f"{queued} events are still on their first way to the bus: the replay waits for them."
        )
    return warnings


def _duration_warnings(plan: ReplayPlan) -> list[str]:
    if not plan.rate_per_second or plan.matched <= plan.rate_per_second:
        return []
    duration = timedelta(seconds=plan.matched // plan.rate_per_second)
    return [f"At {plan.rate_per_second} events a second it takes about {duration}."]
