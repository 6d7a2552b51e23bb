"""Replay path, step 1: what is refused unless the plan asks for it by name.

Invariant: each refusal has a reason of its own and says which flag allows it; docs/replay.md lists them in one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from uuid import UUID

import queries.replays

from billing.domain.errors import Invalid, Precondition
from billing.domain.ids import Prefix, decode
from billing.domain.replay import Effects, Mode, Safety, Target, TargetKind
from billing.runtime.db import Connection
from billing.services.consumers import WANTED, Wanted
from billing.services.replay_token import ReplayPlan

# The consumer whose effects leave the house.
WEBHOOKS: Final = "webhooks"
USAGE: Final = "usage"
# The consumers with a way to compute anew what an event touched, from the facts. Adding is for live events.
REPLAYABLE: Final = frozenset({USAGE})
# So many batches of usage are looked at for closed periods; a plan with more must allow them.
CHECKED_BATCHES_MAX: Final = 10_000


class NotReplayable(Precondition):
    """FORCE is for one named consumer that can compute anew from the facts: usage. Others are sent what they lack."""

    reason = "REPLAY_CONSUMER_NOT_REPLAYABLE"


class EffectsSuppressed(Precondition):
    """This target is outside of the house; allow external_effects to send to it."""

    reason = "REPLAY_EXTERNAL_EFFECTS_SUPPRESSED"


class PeriodsClosed(Precondition):
    """The events touch usage periods that are billed already; allow_closed_periods replays them nevertheless."""

    reason = "REPLAY_PERIODS_CLOSED"


class OlderThanInbox(Precondition):
    """The range begins before the inbox, which could not tell duplicates; allow_older_than_inbox replays it anyway."""

    reason = "REPLAY_OLDER_THAN_INBOX"


def consumers_reached(target: Target, safety: Safety, wanted: Wanted) -> Wanted:
    """Which consumers a replay reaches, each with the subjects that it wants.

    Raises Invalid for an unknown consumer, EffectsSuppressed or NotReplayable.
    """
    _refuse_target(target, safety)
    suppressed = safety.external_effects is Effects.SUPPRESS
    match target.kind:
        case TargetKind.BUS:
            return {c: s for c, s in wanted.items() if not (suppressed and c == WEBHOOKS)}
        case TargetKind.CONSUMER:
            return {c: s for c, s in wanted.items() if c == target.name}
        case TargetKind.ENDPOINT | TargetKind.DEAD_LETTERS:
            return {}


def _refuse_target(target: Target, safety: Safety) -> None:
    is_consumer = target.kind is TargetKind.CONSUMER
    if is_consumer and target.name not in WANTED:
        raise Invalid.field("targets[0].consumer", f"there are {', '.join(WANTED)}")
    if safety.mode is Mode.FORCE and not (is_consumer and target.name in REPLAYABLE):
        raise NotReplayable(metadata={"target": str(target)})
    outside = target.kind is TargetKind.ENDPOINT or (is_consumer and target.name == WEBHOOKS)
    if outside and safety.external_effects is Effects.SUPPRESS:
        raise EffectsSuppressed(metadata={"target": str(target)})


async def refuse_harm(
    tx: Connection,
    plan: ReplayPlan,
    reached: Wanted,
    wanted: Mapping[str, int],
    processed: Mapping[str, int],
) -> None:
    """Raises OlderThanInbox or PeriodsClosed. `wanted` and `processed` are counts by consumer."""
    if reached and not plan.safety.allow_older_than_inbox and plan.matched:
        oldest = await queries.replays.get_oldest_inbox(tx)
        if oldest is not None and plan.first_id is not None and plan.first_id < oldest:
            raise OlderThanInbox()
    forced = plan.safety.mode is Mode.FORCE
    lacking = wanted.get(USAGE, 0) > processed.get(USAGE, 0)
    if USAGE in reached and (forced or lacking) and not plan.safety.allow_closed_periods:
        await _refuse_closed(tx, plan)


async def _refuse_closed(tx: Connection, plan: ReplayPlan) -> None:
    tenant_ids = list(plan.tenants)
    if plan.filter.tenant_id is not None:
        tenant_ids = [plan.filter.tenant_id]
    for tenant_id in tenant_ids:
        closed = await _closed_periods(tx, plan, tenant_id)
        if closed:
            raise PeriodsClosed(
                f"The events touch {closed} usage periods that are billed already; allow_closed_periods replays them"
                " nevertheless, and what changes is adjusted on the next invoice.",
                metadata={"periods": str(closed)},
            )


async def _closed_periods(tx: Connection, plan: ReplayPlan, tenant_id: UUID) -> int:
    conditions = plan.filter.conditions()
    resources = await queries.replays.list_usage_resources(
        tx,
        tenant_id=tenant_id,
        first=conditions["first"],
        last=conditions["last"],
        most=CHECKED_BATCHES_MAX + 1,
    )
    if len(resources) > CHECKED_BATCHES_MAX:
        raise PeriodsClosed(
            f"The events are of more than {CHECKED_BATCHES_MAX} batches, too many to look for billed periods; narrow"
            " the filter, or allow_closed_periods.",
            metadata={"periods": "unknown"},
        )
    batch_ids = [decode(Prefix.USAGE_BATCH, resource) for resource in resources]
    counted = await queries.replays.count_closed_periods(
        tx, tenant_id=tenant_id, batch_ids=batch_ids
    )
    return counted or 0
