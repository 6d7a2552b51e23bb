"""Replay path, step 2: a confirmed plan is started, and looked at.

Invariant: the replay and `billing.replay.started` are committed together; the token's nonce and
the one active replay per tenant and target are unique in the database, so of two starts at once one is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import queries.replays
from queries.models import Replay
from tollway.replay.v1 import replay_events_pb2

from billing.domain.errors import Invalid, PermissionDenied, Precondition, Unavailable
from billing.domain.ids import Prefix, encode
from billing.domain.replay import ACTIVE, Mode, ReplayStatus, TargetKind
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.replay_control import not_found
from billing.services.replay_plan import find_matching
from billing.services.replay_token import Confirmation, ReplayPlan

_INSERTS_MAX: Final = 3
# As long as the log is kept, and the weeks ahead.
WEEKS_MAX: Final = 16


class TokenExpired(Precondition):
    """The confirmation token is older than 15 minutes; plan again."""

    reason = "REPLAY_TOKEN_EXPIRED"


class TokenUsed(Precondition):
    """The confirmation token has started a replay; plan again to start another."""

    reason = "REPLAY_TOKEN_USED"


class ActorMismatch(PermissionDenied):
    """The confirmation token was given to another key; start with the key that planned, or plan again."""

    reason = "REPLAY_ACTOR_MISMATCH"


class RangeDrifted(Precondition):
    """The range no longer holds what the plan counted; plan again."""

    reason = "REPLAY_RANGE_DRIFTED"


class TargetBusy(Precondition):
    """Another replay of the tenant is active on this target; wait until it has ended, or cancel it."""

    reason = "REPLAY_TARGET_BUSY"


class PlanChanged(Precondition):
    """The plan_hash is not that of the token's plan; start what was planned, or plan again."""

    reason = "REPLAY_PLAN_CHANGED"


class ReasonMissing(Invalid):
    """A forced replay needs a reason; say in the note why it must be."""

    reason = "REPLAY_REASON_MISSING"


@dataclass(frozen=True, slots=True)
class ReplayView:
    """A replay and how far it has come: `published` were given to the target, `failed` are dead letters."""

    row: Replay
    published: int
    failed: int

    @property
    def plan(self) -> ReplayPlan:
        """What it does."""
        return ReplayPlan.parse(self.row.plan)

    def remaining(self, now: datetime) -> timedelta | None:
        """How long it still takes, as fast as it went so far; None when it does not run or has not begun."""
        done = self.published + self.failed
        if (
            self.plan.target.kind is not TargetKind.BUS
        ):  # on the way to the bus, what is skipped there is sent too
            done += self.row.skipped
        left = max(self.row.matched - done, 0)
        elapsed = now - self.row.started_at
        if self.row.status != ReplayStatus.RUNNING or not done or elapsed <= timedelta():
            return None
        return elapsed * (left / done)


@dataclass(frozen=True, slots=True)
class StartOrder:
    """Who starts it, and why; `plan_hash` is what the caller believes to start, or empty."""

    cause: Cause
    note: str
    plan_hash: str = ""


async def start_replay(
    tx: Connection, confirmed: Confirmation, order: StartOrder, *, now: datetime
) -> list[ReplayView]:
    """Starts a planned replay, one for each tenant that it spans; each emits billing.replay.started.

    Raises ActorMismatch, PlanChanged, ReasonMissing, TokenUsed, TokenExpired, TargetBusy or RangeDrifted.
    """
    plan = confirmed.plan
    if confirmed.actor != order.cause.actor:
        raise ActorMismatch()
    if order.plan_hash and order.plan_hash != plan.digest.hex():
        raise PlanChanged(metadata={"planned": plan.digest.hex(), "given": order.plan_hash})
    if plan.safety.mode is Mode.FORCE and not order.note.strip():
        raise ReasonMissing()
    await _refuse_used(tx, confirmed)
    if confirmed.expires_at <= now:
        raise TokenExpired()
    parts = [plan.of_tenant(tenant_id) for tenant_id in sorted(plan.tenants)] or [plan]
    # The rows first: they hold the target while the range is counted, and a twin waits here.
    started = [await _insert(tx, confirmed, part, order.note, now) for part in parts]
    if plan.safety.allow_older_than_inbox and plan.first_id is not None:
        # Where its events are: the range may begin long before the first of them.
        first = plan.filter.span.beginning_with(plan.first_id).start
        await queries.replays.make_partitions(tx, first=first, weeks=WEEKS_MAX)
    await _refuse_drift(tx, plan)
    for replay in started:
        await _tell_start(tx, replay, order, now)
    return [ReplayView(replay, 0, 0) for replay in started]


async def _tell_start(tx: Connection, replay: Replay, order: StartOrder, now: datetime) -> None:
    resource = encode(Prefix.REPLAY, replay.id)
    payload = replay_events_pb2.BillingReplayStarted(
        replay_id=resource,
        matched=replay.matched,
        plan_hash=replay.plan_hash.hex(),
        target=replay.target,
    )
    event = events.NewEvent(replay.tenant_id, resource, replay.version, payload, now, order.cause)
    await events.emit(tx, [event], now=now)


async def get_replay(tx: Connection, replay_id: UUID, tenant_id: UUID | None) -> ReplayView:
    """A replay of one tenant, or of any when None is given. `tx` reads one snapshot. Raises ReplayNotFound."""
    row = await queries.replays.get_replay(tx, id=replay_id, tenant_id=tenant_id)
    if row is None:
        raise not_found(replay_id)
    return await view_of(tx, row)


async def list_replays(
    tx: Connection, tenant_id: UUID | None, status: str, *, before: UUID | None, limit: int
) -> list[ReplayView]:
    """The newest replays of a tenant or of all, older than `before`; an empty status is any."""
    rows = await queries.replays.list_replays(
        tx, tenant_id=tenant_id, status=status, before=before, most=limit
    )
    return [await view_of(tx, row) for row in rows]


async def view_of(tx: Connection, row: Replay) -> ReplayView:
    """A replay and how far it has come."""
    if row.status not in ACTIVE:
        return ReplayView(row, row.armed, row.failed)
    counts = await queries.replays.count_queued(tx, id=row.id)
    assert counts is not None, "counts are always a row"
    # What is armed a second time is queued twice and counted once.
    published = max(row.armed - counts.queued - counts.dead, 0)
    return ReplayView(row, published, row.failed + counts.dead)


async def _insert(
    tx: Connection, confirmed: Confirmation, plan: ReplayPlan, note: str, now: datetime
) -> Replay:
    tenant_id = plan.filter.tenant_id
    assert tenant_id is not None, "a part of a plan is one tenant's"
    for _ in range(_INSERTS_MAX):
        row = await queries.replays.insert_replay(
            tx,
            tenant_id=tenant_id,
            id=new_id(now),
            actor=confirmed.actor,
            note=note,
            plan=plan.text,
            plan_hash=plan.digest,
            token_nonce=confirmed.nonce,
            target=str(plan.target),
            matched=plan.matched,
            now=now,
        )
        if row is not None:
            return row
        await _refuse_used(tx, confirmed, tenant_id)
        active = await queries.replays.find_active_replay(
            tx, tenant_id=tenant_id, target=str(plan.target)
        )
        if active is not None:
            raise TargetBusy(metadata={"replay": encode(Prefix.REPLAY, active)})
        # What stood in the way has finished since.
    raise Unavailable("Another replay is just ending; try again.", retry_after_s=1)


async def _refuse_used(
    tx: Connection, confirmed: Confirmation, tenant_id: UUID | None = None
) -> None:
    started = await queries.replays.find_replay_of_token(
        tx, token_nonce=confirmed.nonce, tenant_id=tenant_id
    )
    if started is not None:
        raise TokenUsed(metadata={"replay": encode(Prefix.REPLAY, started)})


async def _refuse_drift(tx: Connection, plan: ReplayPlan) -> None:
    found = await find_matching(tx, plan.filter)
    if (found.matched, found.first_id, found.last_id) != (
        plan.matched,
        plan.first_id,
        plan.last_id,
    ):
        raise RangeDrifted(
            f"The plan counted {plan.matched} events and there are {found.matched} now; plan again.",
            metadata={"planned": str(plan.matched), "found": str(found.matched)},
        )
