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

from billing.domain.backoff import WEBHOOK_ATTEMPTS_MAX, webhook_delay
from billing.domain.webhook import DeliveryStatus
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services.leases import Lease

ENDPOINTS_PER_DISCOVERY_MAX: Final = 10_000
CLAIMS_PER_RECOVERY_MAX: Final = 20
ERROR_LENGTH_MAX: Final = 500
LOST: Final = "lost: the sender ended before it knew the answer"
# A row that its claim's end has made due again must not be claimed while a last result may still be on its way.
_AFTER_EXPIRY: Final = timedelta(seconds=1)
FIRST: Final = UUID(int=0)


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

    The secrets are encrypted, newest first; a None envelope is missing from the log.
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


@dataclass(frozen=True, slots=True)
class Attempt:
    """A completed attempt. `response_head` is the beginning of the answer's body, as it came.

    `jitter_permille` is the chance that the next delay takes, 0 to 1000.
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
    rooms: Mapping[UUID, int],
    leases: Sequence[Lease],
    *,
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
    return [
        Claimed(
            row.tenant_id,
            row.webhook_id,
            row.event_id,
            row.nonce,
            row.attempts,
            claim_ids[row.shard],
            row.shard,
            row.url,
            row.headers,
            row.payload,
            row.rate_per_second,
            row.ciphertexts,
            row.envelope,
        )
        for row in rows
    ]


async def record(
    connection: Connection,
    attempts: Sequence[Attempt],
    closed_claims: Collection[UUID],
    *,
    now: datetime,
) -> int:
    """Writes completed attempts, what becomes of their deliveries, and ends claims; how many deliveries moved.

    One statement. A delivery whose last attempt failed is dead and stands in the dead letters.
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
        statuses=[status for status, _ in nexts],
        due_ats=[due_at for _, due_at in nexts],
        now=now,
        closed_claims=list(closed_claims),
    )
    return len(moved)


def next_step(attempt: Attempt, now: datetime) -> tuple[DeliveryStatus, datetime]:
    """What an attempt makes of its delivery, and when the next one is due if there is one."""
    if attempt.outcome is Outcome.DELIVERED:
        return DeliveryStatus.DELIVERED, now
    delay = webhook_delay(
        attempt.claimed.attempt_number,
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


async def recover(connection: Connection, leases: Sequence[Lease], *, now: datetime) -> Recovered:
    """Turns what is left of claims of earlier terms into attempts `lost`, whose deliveries are due again or dead.

    Claims that ran out under the present term are taken too: their results never came. At most 20 claims a call.
    """
    row = await statements.recover_claims(
        connection,
        shards=[lease.shard for lease in leases],
        terms=[lease.term for lease in leases],
        now=now,
        most=CLAIMS_PER_RECOVERY_MAX,
        error=LOST,
        attempts_max=WEBHOOK_ATTEMPTS_MAX,
    )
    assert row is not None, "a SELECT of scalars returns one row"
    return Recovered(row.deliveries, row.claims == CLAIMS_PER_RECOVERY_MAX)


def _storable(text: str) -> str:
    # A receiver decides some of these texts; PostgreSQL stores no NUL and no lone surrogate.
    return text.replace("\x00", "").encode("utf-8", "replace").decode()[:ERROR_LENGTH_MAX]
