"""Webhook path, beside it: a stretch of events is sent to an endpoint again, as a job that survives whoever runs it.

Invariant: each step is one transaction under the job's row lock: deliveries made, counted as matched, and the place up
to which it has come; so a job that is killed goes on where it was, and none of its events is sent twice. A delivery of
it has a nonce, and so a webhook-id, of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.webhook_history
import queries.webhook_recoveries as statements
import queries.webhooks
from queries.models import WebhookRecovery
from queries.webhook_recoveries import ListStretchRow

from billing.domain.errors import Invalid, NotFound, Precondition
from billing.domain.ids import Prefix, encode
from billing.domain.webhook import DeliveryStatus, EndpointStatus
from billing.runtime import hints
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services.webhook_fanout import PING
from billing.services.webhook_resend import BEGINS_AS, RESENDS_MAX, RESENT_PARTITION
from billing.services.webhook_retention import DELIVERIES_KEPT
from billing.services.webhook_subjects import check_patterns, wants
from billing.services.webhooks import EndpointNotFound

MISSED: Final = "missed"
STATES: Final = (DeliveryStatus.DEAD.value, MISSED, "canceled", "delivered")
# What is recovered when nothing else is said: what was given up.
STATES_DEFAULT: Final = (DeliveryStatus.DEAD.value,)
RATE_DEFAULT: Final = 100
COUNTED_MAX: Final = 200_000
SCANNED_MAX: Final = 2_000
# A job acts when its rate allows this part of a second's deliveries, not for each single one.
PACE_S: Final = 0.1


class RecoveryRunning(Precondition):
    """Another recovery of this endpoint is running; wait until it is finished, or cancel it."""

    reason = "RECOVERY_RUNNING"


class RecoveryNotFound(NotFound):
    """There is no such recovery in this tenant."""

    reason = "RECOVERY_NOT_FOUND"


class RecoveryNotRunning(Precondition):
    """The recovery is finished or was canceled already."""

    reason = "RECOVERY_NOT_RUNNING"


@dataclass(frozen=True, slots=True)
class RecoveryFilter:
    """Events of `[since, until)` in the log's time, by subject and by the state of their latest delivery.

    Empty subjects mean all that the endpoint wants, or has got; empty states mean those that are dead.
    """

    webhook_id: UUID
    since: datetime
    until: datetime | None
    subjects: Sequence[str]
    states: Sequence[str]
    rate_per_second: int


@dataclass(frozen=True, slots=True)
class Preview:
    """What a recovery would do: events by state and subject, each with whether it is chosen, and how many are.

    `truncated` says that only the first 200,000 events of the stretch were counted.
    """

    counts: Mapping[tuple[str, str], tuple[int, bool]]
    chosen: int
    seconds: int
    truncated: bool
    last_event: UUID


async def preview(
    tx: Connection, tenant_id: UUID, wanted: RecoveryFilter, *, now: datetime
) -> Preview:
    """Counts and changes nothing. Raises EndpointNotFound, SubjectInvalid or Invalid."""
    states, patterns = _checked(wanted, now)
    endpoint = await queries.webhooks.get_webhook(tx, tenant_id=tenant_id, id=wanted.webhook_id)
    if endpoint is None or endpoint.status == EndpointStatus.DELETED:
        raise _no_endpoint(wanted.webhook_id)
    last = _before(wanted.until or now)
    rows = await statements.summarize_stretch(
        tx,
        tenant_id=tenant_id,
        webhook_id=wanted.webhook_id,
        after_event=_before(wanted.since),
        last_event=last,
        most=COUNTED_MAX,
    )
    counts = {
        (row.state, row.subject): (row.events, row.state in states and wants(patterns, row.subject))
        for row in rows
        if row.state != MISSED or may_miss(endpoint.subjects, row.subject)
    }
    chosen = sum(events for events, taken in counts.values() if taken)
    truncated = sum(row.events for row in rows) == COUNTED_MAX
    return Preview(counts, chosen, -(-chosen // wanted.rate_per_second), truncated, last)


async def start(
    tx: Connection,
    tenant_id: UUID,
    wanted: RecoveryFilter,
    actor: str,
    note: str,
    *,
    now: datetime,
) -> WebhookRecovery:
    """Starts what was previewed; `actor` and `note` say who asked, and why.

    Raises EndpointNotFound, SubjectInvalid, RecoveryRunning or Invalid.
    """
    counted = await preview(tx, tenant_id, wanted, now=now)
    states, patterns = _checked(wanted, now)
    recovery = await statements.insert_recovery(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        webhook_id=wanted.webhook_id,
        actor=actor,
        note=note,
        after_event=_before(wanted.since),
        last_event=counted.last_event,
        states=list(states),
        subjects=list(patterns),
        rate_per_second=wanted.rate_per_second,
        matched=counted.chosen,
        now=now,
    )
    if recovery is None:
        raise RecoveryRunning(metadata={"endpoint": _name(wanted.webhook_id)})
    return recovery


async def get(tx: Connection, tenant_id: UUID, recovery_id: UUID) -> WebhookRecovery:
    """Raises RecoveryNotFound."""
    row = await statements.get_recovery(tx, tenant_id=tenant_id, id=recovery_id)
    if row is None:
        raise RecoveryNotFound(metadata={"recovery": encode(Prefix.RECOVERY, recovery_id)})
    return row


async def list_of(
    tx: Connection, tenant_id: UUID, webhook_id: UUID | None, *, before: UUID | None, most: int
) -> list[WebhookRecovery]:
    """At most `most`, newest first, those before `before`; of one endpoint or of all."""
    return await statements.list_recoveries(
        tx, tenant_id=tenant_id, webhook_id=webhook_id, before=before, most=most
    )


async def cancel(
    tx: Connection, tenant_id: UUID, recovery_id: UUID, *, now: datetime
) -> WebhookRecovery:
    """It makes no more deliveries; those made stay. Raises RecoveryNotFound or RecoveryNotRunning."""
    row = await statements.cancel_recovery(tx, tenant_id=tenant_id, id=recovery_id, now=now)
    if row is None:
        found = await get(tx, tenant_id, recovery_id)
        raise RecoveryNotRunning(metadata={"status": found.status})
    return row


async def list_running(tx: Connection, after: UUID, *, most: int) -> list[tuple[UUID, UUID]]:
    """Running ones of all tenants by id, as (tenant, recovery), those above `after`."""
    rows = await statements.list_running_recoveries(tx, after=after, most=most)
    return [(row.tenant_id, row.id) for row in rows]


async def advance(tx: Connection, tenant_id: UUID, recovery_id: UUID, *, now: datetime) -> int:
    """The next deliveries that the rate allows; how many were made. 0 too when another worker is at it."""
    job = await statements.lock_running_recovery(tx, tenant_id=tenant_id, id=recovery_id)
    if job is None or (allowed := _allowed(job, now)) == 0:
        return 0
    endpoint = await queries.webhook_history.lock_endpoint(
        tx, tenant_id=tenant_id, id=job.webhook_id
    )
    if endpoint is None or endpoint.status not in BEGINS_AS:
        await _move(tx, job, job.done_until, 0, "canceled", now)
        return 0
    stretch = await statements.list_stretch(
        tx,
        tenant_id=tenant_id,
        webhook_id=job.webhook_id,
        after_event=job.done_until,
        last_event=job.last_event,
        most=SCANNED_MAX,
    )
    chosen = [row for row in stretch if _is_chosen(row, job, endpoint.subjects)]
    taken = chosen[:allowed]
    made = await _make(tx, job, taken, endpoint.shard, BEGINS_AS[endpoint.status], now)
    if len(taken) < len(chosen):
        await _move(tx, job, taken[-1].id, made, "running", now)
    elif len(stretch) == SCANNED_MAX:
        await _move(tx, job, stretch[-1].id, made, "running", now)
    else:
        await _move(tx, job, job.last_event, made, "finished", now)
    # A stretch without any that is wanted is work done, too.
    return made or int(len(stretch) == SCANNED_MAX)


def _allowed(job: WebhookRecovery, now: datetime) -> int:
    """How many deliveries the rate allows now: none for a moment after the last, and no more than a second's."""
    passed_s = min((now - job.armed_at).total_seconds(), 1.0)
    return int(job.rate_per_second * passed_s) if passed_s >= PACE_S else 0


def _is_chosen(row: ListStretchRow, job: WebhookRecovery, endpoint_wants: Sequence[str]) -> bool:
    if (row.status or MISSED) not in job.states or not wants(job.subjects, row.subject):
        return False
    if row.nonce is None:
        return may_miss(endpoint_wants, row.subject)
    return row.nonce < RESENDS_MAX


def may_miss(endpoint_wants: Sequence[str], subject: str) -> bool:
    """Whether an event that was never for the endpoint is one that it wants now; a ping is for one endpoint alone."""
    return subject != PING and wants(endpoint_wants, subject)


async def _make(
    tx: Connection,
    job: WebhookRecovery,
    taken: Sequence[ListStretchRow],
    shard: int,
    status: str,
    now: datetime,
) -> int:
    if not taken:
        return 0
    made = await statements.insert_recovered(
        tx,
        tenant_id=job.tenant_id,
        webhook_id=job.webhook_id,
        shard=shard,
        status=status,
        event_ids=[row.id for row in taken],
        nonces=[0 if row.nonce is None else row.nonce + 1 for row in taken],
        subjects=[row.subject for row in taken],
        partition=RESENT_PARTITION,
        now=now,
    )
    hints.wake(hints.DELIVERIES)
    return made or 0


async def _move(
    tx: Connection, job: WebhookRecovery, done_until: UUID, made: int, status: str, now: datetime
) -> None:
    # The rate is used up to now: what an idle second would have allowed is not saved up.
    await statements.advance_recovery(
        tx,
        tenant_id=job.tenant_id,
        id=job.id,
        made=made,
        done_until=done_until,
        armed_at=now,
        status=status,
        now=now,
    )


def _checked(wanted: RecoveryFilter, now: datetime) -> tuple[Collection[str], Sequence[str]]:
    if wanted.since >= (wanted.until or now):
        raise Invalid.field("since", "must be before `until` and before now")
    if MISSED in wanted.states and wanted.since < now - DELIVERIES_KEPT:
        # An older event's delivery may be gone, and would look as if it had never been.
        days = DELIVERIES_KEPT.days
        raise Invalid.field("since", f"must be within {days} days when missed events are asked for")
    return wanted.states or STATES_DEFAULT, check_patterns(wanted.subjects)


def _before(instant: datetime) -> UUID:
    """Below all ids that were made at this instant or later."""
    return UUID(int=int(instant.timestamp() * 1000) << 80)


def _no_endpoint(webhook_id: UUID) -> EndpointNotFound:
    return EndpointNotFound(metadata={"endpoint": _name(webhook_id)})


def _name(webhook_id: UUID) -> str:
    return encode(Prefix.WEBHOOK_ENDPOINT, webhook_id)
