"""Replay path, step 1: what to think about before a plan is started.

Invariant: a warning says what will happen, or not happen, in words an operator can act on; it never stops anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from billing.domain.replay import Effects, Mode, TargetKind
from billing.services.replay_filter import SETTLED_AFTER, FilterDraft
from billing.services.replay_safety import WEBHOOKS
from billing.services.replay_token import ReplayPlan
from billing.services.subjects import CUSTOM_PREFIX, known_subjects
from billing.services.webhook_subjects import wants

if TYPE_CHECKING:
    from billing.services.replay_plan import Found

# What a quiet machine publishes; the estimate of an unthrottled replay is made with it.
ASSUMED_RATE: Final = 20_000


def warnings_of(
    asked: FilterDraft, plan: ReplayPlan, found: Found, wanted: Mapping[str, int], now: datetime
) -> list[str]:
    """All that apply, the range first. `wanted` counts the events of each consumer."""
    return [
        *_range_warnings(asked, plan, now),
        *_filter_warnings(plan, found),
        *_target_warnings(plan, found, wanted),
        *_way_warnings(plan, found),
    ]


def estimated_duration(plan: ReplayPlan) -> timedelta:
    """How long the sending will take at least: by the plan's rate, or as fast as a quiet machine goes."""
    return timedelta(seconds=plan.matched / (plan.rate_per_second or ASSUMED_RATE))


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
    if plan.safety.allow_older_than_inbox:
        warnings.append(
            "Events older than the inbox are allowed: what was handled before cannot be told there, and is handled"
            " again."
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


def _target_warnings(plan: ReplayPlan, found: Found, wanted: Mapping[str, int]) -> list[str]:
    match plan.target.kind:
        case TargetKind.BUS:
            return _consumer_warnings(plan, found, wanted)
        case TargetKind.CONSUMER:
            name = plan.target.name
            if plan.safety.mode is Mode.FORCE:
                return [f"FORCE: {name} computes anew what {wanted[name]} events touched."]
            return _consumer_warnings(plan, found, {name: wanted[name]})
        case TargetKind.ENDPOINT:
            return _endpoint_warnings(found)
        case TargetKind.DEAD_LETTERS:
            dead = sum(found.dead.values())
            return [f"{dead} dead letters of these events go back where they came from."]


def _consumer_warnings(plan: ReplayPlan, found: Found, wanted: Mapping[str, int]) -> list[str]:
    suppressed = plan.safety.external_effects is Effects.SUPPRESS
    warnings = []
    for consumer, count in wanted.items():
        lacking = count - found.processed.get(consumer, 0)
        if lacking <= 0:
            continue
        if consumer == WEBHOOKS and suppressed:
            warnings.append(
                f"webhooks has not handled {lacking} of the {count} events that it wants, and will not: external"
                " effects are suppressed."
            )
        else:
            outside = ", and tenants' endpoints get them" if consumer == WEBHOOKS else ""
            warnings.append(
                f"{consumer} has not handled {lacking} of the {count} events that it wants: it will handle these"
                f" now{outside}."
            )
    return warnings


def _endpoint_warnings(found: Found) -> list[str]:
    states = found.deliveries
    again = states.get("dead", 0) + found.matched - sum(states.values())
    warnings = [f"This sends to an external endpoint: {again} events that it never got."]
    if kept := found.matched - again:
        warnings.append(
            f"{kept} events were delivered, are on their way or parked; they stay as they are."
        )
    return warnings


def _way_warnings(plan: ReplayPlan, found: Found) -> list[str]:
    if plan.target.kind is TargetKind.DEAD_LETTERS:
        return []
    warnings = []
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
    if plan.rate_per_second and plan.matched > plan.rate_per_second:
        duration = timedelta(seconds=plan.matched // plan.rate_per_second)
        warnings.append(f"At {plan.rate_per_second} events a second it takes about {duration}.")
    return warnings
