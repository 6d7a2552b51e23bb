"""Replay path, step 1: a dry run that counts what a replay would send, and refuses what would do harm.

Invariant: planning changes nothing and stores nothing. No target is a default, everything that can do harm is refused
unless the plan asks for it by name, and a plan with more events than asked for is refused with its counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.replays
from queries.replays import ListSamplesRow as Sample

from billing.domain.errors import Invalid, Precondition
from billing.domain.ids import Prefix, decode
from billing.domain.replay import Safety, Target, TargetKind
from billing.runtime.db import Connection
from billing.services import replay_safety, tenants
from billing.services.consumers import Wanted
from billing.services.replay_filter import FilterDraft, ReplayFilter
from billing.services.replay_token import ReplayPlan
from billing.services.replay_warnings import warnings_of

MAX_EVENTS_DEFAULT: Final = 1_000
MAX_EVENTS_CEILING: Final = 1_000_000
RATE_CEILING: Final = 100_000
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
    targets: Sequence[Target]
    max_events: int = 0
    rate_per_second: int = 0
    safety: Safety = field(default_factory=Safety)


@dataclass(frozen=True, slots=True)
class Found:
    """What a filter matches, counted: by subject, by consumer that has handled them, by their way to the bus, by
    tenant, by the state of an endpoint's deliveries, and by the consumer that gave them up.
    """

    subjects: Mapping[str, int]
    processed: Mapping[str, int]
    unpublished: Mapping[str, int]
    tenants: Mapping[UUID, int]
    deliveries: Mapping[str, int]
    dead: Mapping[str, int]
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
    samples: Sequence[Sample]


async def plan_replay(
    tx: Connection, draft: PlanDraft, wanted: Wanted, *, now: datetime
) -> Planned:
    """Resolves the filter and counts. `tx` reads one snapshot; all tenants need the worker role.

    Raises TargetMissing, TooLarge, SubjectInvalid, TenantNotFound, Invalid, or what replay_safety refuses with.
    """
    target = _the_target(draft.targets)
    most = draft.max_events or MAX_EVENTS_DEFAULT
    if not 0 < most <= MAX_EVENTS_CEILING:
        raise Invalid.field("max_events", f"must be from 0 to {MAX_EVENTS_CEILING}")
    if not 0 <= draft.rate_per_second <= RATE_CEILING:
        raise Invalid.field("rate_per_second", f"must be from 0 to {RATE_CEILING}")
    if draft.filter.tenant_id is not None:
        await tenants.get_tenant(tx, draft.filter.tenant_id)
    reached = replay_safety.consumers_reached(target, draft.safety, wanted)
    frozen = draft.filter.freeze(now)
    found = await find_matching(tx, frozen, list(wanted), target)
    if found.matched > most:
        raise _too_large(found, most)
    if draft.filter.start is None:
        frozen = replace(frozen, span=frozen.span.beginning_with(found.first_id))
    plan = ReplayPlan(
        frozen,
        target,
        draft.safety,
        most,
        draft.rate_per_second,
        found.matched,
        found.first_id,
        found.last_id,
        dict(found.tenants) if draft.filter.tenant_id is None else {},
    )
    counts = _wanted_counts(found, wanted)
    await replay_safety.refuse_harm(tx, plan, reached, counts, found.processed)
    samples = await _samples(tx, found)
    return Planned(
        plan, found, counts, warnings_of(draft.filter, plan, found, counts, now), samples
    )


async def find_matching(
    tx: Connection,
    selected: ReplayFilter,
    consumers: Sequence[str] = (),
    target: Target | None = None,
) -> Found:
    """Counts what a filter matches, up to one more than MAX_EVENTS_CEILING."""
    endpoint = None
    if target is not None and target.kind is TargetKind.ENDPOINT:
        endpoint = decode(Prefix.WEBHOOK_ENDPOINT, target.name, path="targets[0].endpoint")
    rows = await queries.replays.summarize_matching(
        tx,
        **selected.conditions(),
        most=MAX_EVENTS_CEILING + 1,
        consumers=consumers,
        webhook_id=endpoint,
    )
    firsts = [row.first_id for row in rows if row.first_id is not None]
    lasts = [row.last_id for row in rows if row.last_id is not None]

    def counts(kind: str) -> dict[str, int]:
        return {row.name: row.events for row in rows if row.kind == kind}

    return Found(
        counts("subject"),
        counts("consumer"),
        counts("dispatch"),
        {UUID(tenant): count for tenant, count in counts("tenant").items()},
        counts("delivery"),
        counts("dead"),
        min(firsts, default=None),
        max(lasts, default=None),
    )


def _the_target(targets: Sequence[Target]) -> Target:
    if not targets:
        raise TargetMissing()
    if len(set(targets)) > 1:
        raise Invalid.field(
            "targets", "one target for each replay, since each has a progress of its own"
        )
    return targets[0]


async def _samples(tx: Connection, found: Found) -> Sequence[Sample]:
    """The first and the last event: enough to see whether it is the right stretch."""
    ids = [one for one in (found.first_id, found.last_id) if one is not None]
    return await queries.replays.list_samples(tx, ids=ids) if ids else ()


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
