"""Webhook path, beside it: why an event is where it is, for one endpoint.

Invariant: every answer is drawn from committed rows of one snapshot; what only a sender's memory knows (its room per
endpoint) is told as what follows from the rows: due, and not claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import queries.webhook_history as statements
from queries.webhook_history import GetFanOutStateRow

from billing.domain.backoff import WEBHOOK_ATTEMPTS_MAX
from billing.domain.ids import Prefix, encode
from billing.domain.webhook import BreakerState, DeliveryStatus
from billing.runtime.db import Connection
from billing.services import webhook_health
from billing.services.event_log import EventNotFound
from billing.services.rows import Webhook
from billing.services.webhook_history import DeliveryRow
from billing.services.webhook_subjects import wants
from billing.services.webhooks import get_endpoint

AHEAD_COUNTED_MAX: Final = 10_000
_CONSUMER: Final = "webhooks"


class Verdict(StrEnum):
    """Why an event is where it is."""

    DELIVERED = "delivered"
    IN_FLIGHT = "in_flight"
    SCHEDULED = "scheduled"
    THROTTLED = "throttled"
    PARKED = "parked"
    DEAD = "dead"
    CANCELED = "canceled"
    FILTERED = "filtered"
    EARLIER = "earlier"
    NOT_YET = "not_yet"


@dataclass(frozen=True, slots=True)
class Explanation:
    """The verdict and what it was drawn from; `ahead` counts deliveries that are due before this one."""

    verdict: Verdict
    text: str
    subject: str
    patterns: Sequence[str]
    matching: Sequence[str]
    delivery: DeliveryRow | None = None
    next_at: datetime | None = None
    ahead: int = 0


_SETTLED: Final = {
    DeliveryStatus.DELIVERED: (Verdict.DELIVERED, "The endpoint answered 2xx."),
    DeliveryStatus.PARKED: (
        Verdict.PARKED,
        "The endpoint is disabled; what waits for it is sent when it is enabled.",
    ),
    DeliveryStatus.DEAD: (
        Verdict.DEAD,
        "Every attempt failed; mend the receiver, then send it again with ResendDelivery.",
    ),
    DeliveryStatus.CANCELED: (Verdict.CANCELED, "The delivery was taken back; nothing is sent."),
}


async def explain(
    tx: Connection, tenant_id: UUID, webhook_id: UUID, event_id: UUID, *, now: datetime
) -> Explanation:
    """Of the latest resend, if there are some. `tx` reads one snapshot. Raises EndpointNotFound or EventNotFound."""
    endpoint, _ = await get_endpoint(tx, tenant_id, webhook_id)
    row = await statements.get_latest_delivery(
        tx, tenant_id=tenant_id, webhook_id=webhook_id, event_id=event_id
    )
    if row is not None:
        return await _explain_row(tx, tenant_id, endpoint, row, now)
    state = await statements.get_fan_out_state(
        tx, tenant_id=tenant_id, event_id=event_id, consumer=_CONSUMER
    )
    if state is None:
        raise EventNotFound(metadata={"event": encode(Prefix.EVENT, event_id)})
    return _explain_absence(endpoint, state)


async def _explain_row(
    tx: Connection, tenant_id: UUID, endpoint: Webhook, row: DeliveryRow, now: datetime
) -> Explanation:
    matching = _matching(endpoint, row.subject)
    settled = _SETTLED.get(DeliveryStatus(row.status))
    if settled is not None:
        return Explanation(*settled, row.subject, endpoint.subjects, matching, row)
    ended = await statements.get_last_attempt_number(
        tx,
        tenant_id=tenant_id,
        webhook_id=row.webhook_id,
        event_id=row.event_id,
        nonce=row.nonce,
    )
    ahead = 0
    if row.attempts > (ended or 0):
        # The due time of a claimed row is the end of its claim.
        verdict, next_at = Verdict.IN_FLIGHT, None
        text = f"Attempt {row.attempts} is under way, or its result is being written."
    elif row.due_at > now:
        verdict, next_at = Verdict.SCHEDULED, row.due_at
        text = (
            f"Attempt {row.attempts - row.forgiven + 1} of {WEBHOOK_ATTEMPTS_MAX} comes at"
            f" {_shown(row.due_at)}."
        )
    else:
        verdict, next_at = Verdict.THROTTLED, row.due_at
        ahead = await _count_ahead(tx, tenant_id, row)
        text = (
            f"It has been due since {_shown(row.due_at)}, with {ahead} of this endpoint before it;"
            f" {await _why_throttled(tx, tenant_id, row.webhook_id, now)}."
        )
    return Explanation(verdict, text, row.subject, endpoint.subjects, matching, row, next_at, ahead)


async def _why_throttled(tx: Connection, tenant_id: UUID, webhook_id: UUID, now: datetime) -> str:
    health = await webhook_health.get_health(tx, tenant_id, webhook_id, now=now)
    if health is not None and health.breaker is BreakerState.OPEN and health.open_until:
        until = _shown(health.open_until)
        return f"after {health.failures} failures in a row nothing is sent to it until {until}"
    if health is not None and health.breaker is BreakerState.HALF_OPEN:
        return f"after {health.failures} failures in a row it gets one attempt at a time"
    return "the endpoint's room is taken, its rate used, or no sender is at work"


async def _count_ahead(tx: Connection, tenant_id: UUID, row: DeliveryRow) -> int:
    counted = await statements.count_ahead(
        tx,
        tenant_id=tenant_id,
        webhook_id=row.webhook_id,
        due_at=row.due_at,
        event_id=row.event_id,
        most=AHEAD_COUNTED_MAX,
    )
    return counted or 0


def _explain_absence(endpoint: Webhook, state: GetFanOutStateRow) -> Explanation:
    matching = _matching(endpoint, state.subject)
    if not matching:
        verdict = Verdict.FILTERED
        text = f"None of the endpoint's subjects matches {state.subject}."
    elif state.fanned_out:
        verdict = Verdict.EARLIER
        text = "It was fanned out before the endpoint was there or wanted this subject."
    else:
        verdict = Verdict.NOT_YET
        text = "It has not been fanned out yet; look at the backlog of the bus and the router."
    return Explanation(verdict, text, state.subject, endpoint.subjects, matching)


def _matching(endpoint: Webhook, subject: str) -> list[str]:
    return [pattern for pattern in endpoint.subjects if wants([pattern], subject)]


def _shown(instant: datetime) -> str:
    return instant.isoformat(" ", "seconds")
