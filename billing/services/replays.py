"""Replay path, step 2: a confirmed plan is started, and looked at.

Invariant: the replay, its line in the audit and `billing.replay.started` are committed together; the token's nonce and
the one active replay per tenant and target are unique in the database, so of two starts at once one is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.audit
import queries.replays
from queries.models import Replay
from tollway.replay.v1 import replay_events_pb2

from billing.domain.errors import NotFound, PermissionDenied, Precondition, Unavailable
from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.replay_plan import find_matching
from billing.services.replay_token import Confirmation, ReplayPlan

_INSERTS_MAX: Final = 3


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
    """Another replay of the tenant is active on this target; wait until it is finished."""

    reason = "REPLAY_TARGET_BUSY"


class ReplayNotFound(NotFound):
    """There is no such replay."""

    reason = "REPLAY_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class ReplayView:
    """A replay and how far it has come: `published` are on the bus, `failed` are dead letters."""

    row: Replay
    published: int
    failed: int


async def start_replay(
    tx: Connection, confirmed: Confirmation, note: str, cause: Cause, *, method: str, now: datetime
) -> ReplayView:
    """Starts a planned replay; emits billing.replay.started. `method` and `note` are what the audit keeps.

    Raises ActorMismatch, TokenUsed, TokenExpired, TargetBusy or RangeDrifted.
    """
    if confirmed.actor != cause.actor:
        raise ActorMismatch()
    await _refuse_used(tx, confirmed)
    if confirmed.expires_at <= now:
        raise TokenExpired()
    # The row first: it holds the target while the range is counted, and a twin waits here.
    replay = await _insert(tx, confirmed, note, now)
    await _refuse_drift(tx, confirmed.plan)
    resource = encode(Prefix.REPLAY, replay.id)
    await queries.audit.insert_audit_entry(
        tx,
        tenant_id=replay.tenant_id,
        id=new_id(now),
        actor=cause.actor,
        method=method,
        resource=resource,
        correlation_id=cause.correlation_id,
        note=note,
        now=now,
    )
    payload = replay_events_pb2.BillingReplayStarted(
        replay_id=resource, matched=replay.matched, plan_hash=replay.plan_hash.hex()
    )
    event = events.NewEvent(replay.tenant_id, resource, replay.version, payload, now, cause)
    await events.emit(tx, [event], now=now)
    return ReplayView(replay, 0, 0)


async def get_replay(tx: Connection, replay_id: UUID, tenant_id: UUID | None) -> ReplayView:
    """A replay of one tenant, or of any when None is given. `tx` reads one snapshot. Raises ReplayNotFound."""
    row = await queries.replays.get_replay(tx, id=replay_id, tenant_id=tenant_id)
    if row is None:
        raise ReplayNotFound(metadata={"replay": encode(Prefix.REPLAY, replay_id)})
    if row.status != "running":
        return ReplayView(row, row.armed, row.failed)
    counts = await queries.replays.count_queued(tx, id=replay_id)
    assert counts is not None, "counts are always a row"
    # What is armed a second time is queued twice and counted once.
    published = max(row.armed - counts.queued - counts.dead, 0)
    return ReplayView(row, published, row.failed + counts.dead)


async def _insert(tx: Connection, confirmed: Confirmation, note: str, now: datetime) -> Replay:
    plan = confirmed.plan
    for _ in range(_INSERTS_MAX):
        row = await queries.replays.insert_replay(
            tx,
            tenant_id=plan.filter.tenant_id,
            id=new_id(now),
            actor=confirmed.actor,
            note=note,
            plan=plan.text,
            plan_hash=plan.digest,
            token_nonce=confirmed.nonce,
            matched=plan.matched,
            now=now,
        )
        if row is not None:
            return row
        await _refuse_used(tx, confirmed)
        running = await queries.replays.find_running_replay(tx, tenant_id=plan.filter.tenant_id)
        if running is not None:
            raise TargetBusy(metadata={"replay": encode(Prefix.REPLAY, running)})
        # What stood in the way has finished since.
    raise Unavailable("Another replay is just ending; try again.", retry_after_s=1)


async def _refuse_used(tx: Connection, confirmed: Confirmation) -> None:
    started = await queries.replays.find_replay_of_token(tx, token_nonce=confirmed.nonce)
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
