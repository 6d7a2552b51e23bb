"""Webhook path, step 2 of 2: what is due, claims, results, and what a sender that died left behind.

Invariant: an attempt is claimed before it is posted, and its number guards its result; so each request that left the
house has an attempt row in the end (`lost` when nobody knows how it ended), and no late result moves what a later
attempt holds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

import queries.webhook_deliveries as statements
import queries.webhook_health as statements_of_health
from queries.webhook_deliveries import ClaimDeliveriesRow
from queries.webhook_health import ClaimProbesRow

from billing.domain.backoff import (
    FORGIVEN_MAX,
    WEBHOOK_ATTEMPTS_MAX,
    ExponentialBackoff,
    webhook_delay,
)
from billing.domain.webhook import PROBE_EVERY, DeliveryStatus
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services.leases import Lease
from billing.services.webhook_exhausted import Exhausted, tell_exhausted

ENDPOINTS_PER_DISCOVERY_MAX: Final = 10_000
CLAIMS_PER_RECOVERY_MAX: Final = 20
ERROR_LENGTH_MAX: Final = 500
LOST: Final = "lost: the sender ended before it knew the answer"
# A row that its claim's end has made due again must not be claimed while a last result may still be on its way.
_AFTER_EXPIRY: Final = timedelta(seconds=1)
FIRST: Final = UUID(int=0)
PROBES_PER_DISCOVERY_MAX: Final = 32
_OUR_FAULT_AGAIN: Final = ExponentialBackoff(base_ms=5_000, cap_ms=300_000)


class Outcome(StrEnum):
    """How an attempt ended. `lost` is written by whoever takes over."""

    DELIVERED = "delivered"  # 2xx
    REFUSED = "refused"  # any other answer
    FAILED = "failed"  # no complete answer


@dataclass(frozen=True, slots=True)
class Due:
    """An endpoint for which something is due."""

    tenant_id: UUID
    webhook_id: UUID


@dataclass(frozen=True, slots=True)
class Claimed:
    """One delivery to attempt. `headers` are the tenant's own, a JSON object; `payload` is 'fat' or 'thin'.

    The secrets are encrypted, newest first; a None envelope is missing from the log. `forgiven` of the attempts before
    this one are not counted. A probe is a parked delivery that asks a disabled endpoint whether it answers again.
    """

    tenant_id: UUID
    webhook_id: UUID
    event_id: UUID
    nonce: int
    attempt_number: int
    claim_id: UUID
    shard: int
    url: str
    headers: str
    payload: str
    rate_per_second: int
    ciphertexts: Sequence[bytes]
    envelope: bytes | None
    forgiven: int = 0
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """A completed attempt. `response_head` is the beginning of the answer's body, as it came.

    `jitter_permille` is the chance that the next delay takes, 0 to 1000. `ours` says that a fault of the house, not of
    the receiver, ended it. `request_headers` is a JSON object, the tenant's own headers without their values.
    """

    claimed: Claimed
    outcome: Outcome
    started_at: datetime
    duration_ms: int
    jitter_permille: int
    response_status: int | None = None
    response_head: bytes = b""
    retry_after_s: int | None = None
    error: str = ""
    address: str = ""
    ours: bool = False
    request_headers: str = ""


async def recently_due(
    connection: Connection, leases: Sequence[Lease], *, after: datetime, now: datetime
) -> list[Due]:
    """The endpoints for which something became due after `after`, the latest last."""
    rows = await statements.list_recently_due(
        connection, shards=[lease.shard for lease in leases], after=after, now=now
    )
    return [Due(row.tenant_id, row.webhook_id) for row in sorted(rows, key=lambda row: row.due_at)]


async def discover(
    connection: Connection, leases: Sequence[Lease], *, after: UUID, now: datetime
) -> list[Due]:
    """At most 10,000 endpoints above `after`, by id, for which anything is due, however long it has been."""
    rows = await statements.list_due_endpoints(
        connection,
        now=now,
        shards=[lease.shard for lease in leases],
        after=after,
        most=ENDPOINTS_PER_DISCOVERY_MAX,
    )
    return [Due(row.tenant_id, row.webhook_id) for row in rows]


async def claim(
    connection: Connection,
    leases: Sequence[Lease],
    *,
    rooms: Mapping[UUID, int],
    now: datetime,
    claim_lease_s: float,
) -> list[Claimed]:
    """At most so many due deliveries of each endpoint, oldest first, under the leases that still hold.

    One statement, committed when it returns: attempts counted, rows out of the way of other claims, and a claim row
    per shard that names them.
    """
    expires_at = now + timedelta(seconds=claim_lease_s)
    claim_ids = {lease.shard: new_id(now) for lease in leases}
    rows = await statements.claim_deliveries(
        connection,
        now=now,
        shards=[lease.shard for lease in leases],
        terms=[lease.term for lease in leases],
        claim_ids=list(claim_ids.values()),
        webhook_ids=list(rooms),
        rooms=list(rooms.values()),
        retry_at=expires_at + _AFTER_EXPIRY,
        expires_at=expires_at,
    )
    return [_claimed(row, claim_ids[row.shard], probe=False) for row in rows]


async def claim_probes(
    connection: Connection, leases: Sequence[Lease], *, now: datetime, claim_lease_s: float
) -> list[Claimed]:
    """At most 32 parked deliveries, one of each disabled endpoint whose next probe is due, as `claim` does."""
    expires_at = now + timedelta(seconds=claim_lease_s)
    claim_ids = {lease.shard: new_id(now) for lease in leases}
    rows = await statements_of_health.claim_probes(
        connection,
        now=now,
        shards=[lease.shard for lease in leases],
        terms=[lease.term for lease in leases],
        claim_ids=list(claim_ids.values()),
        most=PROBES_PER_DISCOVERY_MAX,
        probe_at=now + PROBE_EVERY,
        expires_at=expires_at,
    )
    return [_claimed(row, claim_ids[row.shard], probe=True) for row in rows]


def _claimed(row: ClaimDeliveriesRow | ClaimProbesRow, claim_id: UUID, *, probe: bool) -> Claimed:
    return Claimed(
        row.tenant_id,
        row.webhook_id,
        row.event_id,
        row.nonce,
        row.attempts,
        claim_id,
        row.shard,
        row.url,
        row.headers,
        row.payload,
        row.rate_per_second,
        row.ciphertexts,
        row.envelope,
        row.forgiven,
        probe,
    )


async def record(
    connection: Connection,
    attempts: Sequence[Attempt],
    closed_claims: Collection[UUID],
    *,
    now: datetime,
) -> int:
    """Writes completed attempts, what becomes of their deliveries, and ends claims; how many deliveries moved.

    One statement. A delivery whose last attempt failed is dead, stands in the dead letters and is told of by
    webhook.delivery.exhausted; when `exhausts` says that there may be such, `connection` is a transaction.
    """
    nexts = [next_step(attempt, now) for attempt in attempts]
    moved = await statements.record_attempts(
        connection,
        tenant_ids=[attempt.claimed.tenant_id for attempt in attempts],
        webhook_ids=[attempt.claimed.webhook_id for attempt in attempts],
        event_ids=[attempt.claimed.event_id for attempt in attempts],
        nonces=[attempt.claimed.nonce for attempt in attempts],
        attempt_numbers=[attempt.claimed.attempt_number for attempt in attempts],
        started_ats=[attempt.started_at for attempt in attempts],
        durations_ms=[attempt.duration_ms for attempt in attempts],
        outcomes=[attempt.outcome for attempt in attempts],
        response_statuses=[attempt.response_status for attempt in attempts],
        response_heads=[attempt.response_head for attempt in attempts],
        errors=[_storable(attempt.error) for attempt in attempts],
        addresses=[attempt.address for attempt in attempts],
        request_headers=[attempt.request_headers for attempt in attempts],
        forgiven=[int(_is_forgiven(attempt)) for attempt in attempts],
        statuses=[status for status, _ in nexts],
        due_ats=[due_at for _, due_at in nexts],
        now=now,
        closed_claims=list(closed_claims),
    )
    dead = [
        Exhausted(row.tenant_id, row.webhook_id, row.event_id, row.nonce, row.attempts, row.subject)
        for row in moved
        if row.status == DeliveryStatus.DEAD
    ]
    await tell_exhausted(connection, dead, now)
    return len(moved)


def exhausts(attempts: Sequence[Attempt], now: datetime) -> bool:
    """Whether one of these may be the last of its delivery; almost never."""
    return any(next_step(attempt, now)[0] is DeliveryStatus.DEAD for attempt in attempts)


def _is_forgiven(attempt: Attempt) -> bool:
    # A probe was forgiven when it was claimed.
    return attempt.ours and attempt.claimed.forgiven < FORGIVEN_MAX and not attempt.claimed.probe


def next_step(attempt: Attempt, now: datetime) -> tuple[DeliveryStatus, datetime]:
    """What an attempt makes of its delivery, and when the next one is due if there is one."""
    claimed = attempt.claimed
    if attempt.outcome is Outcome.DELIVERED:
        return DeliveryStatus.DELIVERED, now
    if claimed.probe:
        return DeliveryStatus.PENDING, now
    if _is_forgiven(attempt):
        pause = _OUR_FAULT_AGAIN.delay(
            claimed.forgiven + 1, jitter_permille=attempt.jitter_permille
        )
        return DeliveryStatus.PENDING, now + pause
    delay = webhook_delay(
        claimed.attempt_number - claimed.forgiven,
        jitter_permille=attempt.jitter_permille,
        retry_after_s=attempt.retry_after_s,
    )
    if delay is None:
        return DeliveryStatus.DEAD, now
    return DeliveryStatus.PENDING, now + delay


@dataclass(frozen=True, slots=True)
class Recovered:
    """What one call of `recover` did; `more` says that there may be further claims."""

    deliveries: int
    more: bool


async def recover(tx: Connection, leases: Sequence[Lease], *, now: datetime) -> Recovered:
    """Turns what is left of claims of earlier terms into attempts `lost`, whose deliveries are due again or dead.

    Claims that ran out under the present term are taken too: their results never came. At most 20 claims a call.
    """
    rows = await statements.recover_claims(
        tx,
        shards=[lease.shard for lease in leases],
        terms=[lease.term for lease in leases],
        now=now,
        most=CLAIMS_PER_RECOVERY_MAX,
        error=LOST,
        attempts_max=WEBHOOK_ATTEMPTS_MAX,
    )
    dead = [
        Exhausted(row.tenant_id, row.webhook_id, row.event_id, row.nonce, row.attempts, row.subject)
        for row in rows
        if row.tenant_id and row.webhook_id and row.event_id and row.subject
        if row.nonce is not None and row.attempts is not None
    ]
    await tell_exhausted(tx, dead, now)
    return Recovered(rows[0].deliveries, rows[0].claims == CLAIMS_PER_RECOVERY_MAX)


def _storable(text: str) -> str:
    # A receiver decides some of these texts; PostgreSQL stores no NUL and no lone surrogate.
    return text.replace("\x00", "").encode("utf-8", "replace").decode()[:ERROR_LENGTH_MAX]
