"""Webhook path, after step 2: what the answers of an endpoint mean for the endpoint itself.

Invariant: only what the receiver did counts; a fault of the house neither opens a breaker nor disables anybody. The
endpoint's row is locked first, in a transaction after the one that recorded the attempts: if that one is the last that
a sender does, the next attempt meets the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.webhook_health as statements

from billing.domain.webhook import (
    PROBE_EVERY,
    BreakerState,
    EndpointStatus,
    breaker_state,
    should_disable,
)
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import webhook_endpoints
from billing.services.actor import Cause
from billing.services.rows import Webhook
from billing.services.webhook_deliveries import Attempt, Claimed, Outcome
from billing.services.webhook_endpoints import DisabledReason
from billing.services.webhook_exhausted import ACTOR
from billing.services.webhooks import EndpointNotFound

_NO_ANSWER: Final = None


@dataclass(frozen=True, slots=True)
class Failing:
    """An endpoint whose latest answers were failures: how many one after the other, and since when as far as is known.

    `open_until` is None while its breaker is not open.
    """

    tenant_id: UUID
    webhook_id: UUID
    failing_since: datetime
    failures: int
    open_until: datetime | None


@dataclass(frozen=True, slots=True)
class Health:
    """What is stored of an endpoint that has had nothing but failures for a while."""

    failing_since: datetime
    failures: int
    breaker: BreakerState
    open_until: datetime | None


async def note(
    tx: Connection, failing: Sequence[Failing], healthy: Sequence[tuple[UUID, UUID]]
) -> dict[UUID, datetime]:
    """Stores which endpoints fail and which, as (tenant, endpoint), do not; since when the former really do."""
    if healthy:
        await statements.note_healthy(
            tx,
            tenant_ids=[tenant_id for tenant_id, _ in healthy],
            webhook_ids=[webhook_id for _, webhook_id in healthy],
        )
    if not failing:
        return {}
    rows = await statements.note_failing(
        tx,
        tenant_ids=[one.tenant_id for one in failing],
        webhook_ids=[one.webhook_id for one in failing],
        failing_sinces=[one.failing_since for one in failing],
        failures=[one.failures for one in failing],
        open_untils=[one.open_until for one in failing],
    )
    return {row.webhook_id: row.failing_since for row in rows}


async def get_health(
    tx: Connection, tenant_id: UUID, webhook_id: UUID, *, now: datetime
) -> Health | None:
    """None when its last answer was a success, or it has had none."""
    row = await statements.get_health(tx, tenant_id=tenant_id, webhook_id=webhook_id)
    if row is None:
        return None
    state = breaker_state(row.failures, row.open_until, now)
    return Health(row.failing_since, row.failures, state, row.open_until)


def gone_endpoints(attempts: Sequence[Attempt], now: datetime) -> list[Attempt]:
    """One attempt of each endpoint that said that it is gone; empty almost always."""
    said = {
        attempt.claimed.webhook_id: attempt
        for attempt in attempts
        if attempt.response_status is not None
        and should_disable(attempt.response_status, None, now)
    }
    return list(said.values())


def answered_probes(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The probes that were answered with 2xx; empty almost always."""
    return [
        attempt
        for attempt in attempts
        if attempt.claimed.probe and attempt.outcome is Outcome.DELIVERED
    ]


async def disable_gone(tx: Connection, attempt: Attempt, now: datetime) -> bool:
    """Disables the endpoint of this attempt and emits webhook.endpoint.disabled; whether it was still enabled."""
    return await _disable(tx, attempt.claimed, DisabledReason.GONE, now)


async def disable_failing(tx: Connection, attempt: Attempt, now: datetime) -> bool:
    """The same when it has had nothing but failures for 5 days; from now on it is probed."""
    claimed = attempt.claimed
    stored = await statements.get_health(
        tx, tenant_id=claimed.tenant_id, webhook_id=claimed.webhook_id
    )
    if stored is None or not should_disable(_NO_ANSWER, stored.failing_since, now):
        return False
    if not await _disable(tx, claimed, DisabledReason.FAILING, now):
        return False
    await statements.probe_from(
        tx,
        tenant_id=claimed.tenant_id,
        webhook_id=claimed.webhook_id,
        probe_at=now + PROBE_EVERY,
    )
    return True


async def revive(tx: Connection, attempt: Attempt, now: datetime) -> bool:
    """Enables the endpoint that answered a probe and emits webhook.endpoint.recovered; whether it was disabled."""
    claimed = attempt.claimed
    webhook = await _still_there(tx, claimed)
    if webhook is None or webhook.disabled_reason != DisabledReason.FAILING:
        return False
    await webhook_endpoints.revive_endpoint(
        tx, claimed.tenant_id, claimed.webhook_id, _cause(claimed, now), now=now
    )
    return True


async def _disable(tx: Connection, claimed: Claimed, reason: DisabledReason, now: datetime) -> bool:
    webhook = await _still_there(tx, claimed)
    if webhook is None or webhook.status != EndpointStatus.ENABLED:
        return False
    await webhook_endpoints.disable_endpoint(
        tx, claimed.tenant_id, claimed.webhook_id, reason, _cause(claimed, now), now=now
    )
    return True


async def _still_there(tx: Connection, claimed: Claimed) -> Webhook | None:
    """The endpoint, locked; an answer from a URL that it no longer has says nothing about it."""
    try:
        webhook = await webhook_endpoints.lock_endpoint(tx, claimed.tenant_id, claimed.webhook_id)
    except EndpointNotFound:
        return None
    return webhook if webhook.url == claimed.url else None


def _cause(claimed: Claimed, now: datetime) -> Cause:
    return Cause(ACTOR, new_id(now), claimed.event_id)
