"""The rim's third door: the same request id gives the same answer, for at least a day.

Invariant: the request id is inserted first in the mutation's own transaction and its answer is stored before the same
commit, so there is never an effect without its answer, nor two effects. A rolled-back error stores nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg
import queries.idempotency

from billing.domain.errors import AlreadyExists, Conflict
from billing.runtime.db import Connection
from billing.runtime.vault import Vault


class RequestIdReused(AlreadyExists):
    """This request_id was used with another body; give each new request an id of its own."""

    reason = "REQUEST_ID_REUSED"


class RequestInProgress(Conflict):
    """A twin of this request is still running; try again."""

    reason = "REQUEST_IN_PROGRESS"


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What makes a request the same: who sends which method under which id, with which body (without the id)."""

    tenant_id: UUID
    principal: UUID
    method: str
    request_id: str
    body: bytes


async def once(
    tx: Connection,
    key: RequestKey,
    work: Callable[[], Awaitable[bytes]],
    *,
    now: datetime,
    vault: Vault | None = None,
) -> bytes:
    """The encoded answer of `work`, or the earlier one of the same request.

    `vault` encrypts answers that carry a secret. Raises RequestIdReused, and RequestInProgress when the twin takes
    longer than the session's lock timeout.
    """
    body_hash = hashlib.sha256(key.body).digest()
    try:
        fresh = await queries.idempotency.insert_request(
            tx,
            tenant_id=key.tenant_id,
            principal=key.principal,
            method=key.method,
            request_id=key.request_id,
            body_hash=body_hash,
            now=now,
        )
    except asyncpg.LockNotAvailableError as error:
        raise RequestInProgress(retry_after_s=1) from error
    if not fresh:
        return await _earlier_answer(tx, key, body_hash, vault)
    answer = await work()
    await queries.idempotency.store_answer(
        tx,
        tenant_id=key.tenant_id,
        principal=key.principal,
        method=key.method,
        request_id=key.request_id,
        answer=vault.encrypt(answer) if vault else answer,
        encrypted=vault is not None,
    )
    return answer


async def _earlier_answer(
    tx: Connection, key: RequestKey, body_hash: bytes, vault: Vault | None
) -> bytes:
    row = await queries.idempotency.get_request(
        tx,
        tenant_id=key.tenant_id,
        principal=key.principal,
        method=key.method,
        request_id=key.request_id,
    )
    if row is None or row.answer is None:  # deleted by age since the insert met it
        raise RequestInProgress(retry_after_s=1)
    if row.body_hash != body_hash:
        raise RequestIdReused(metadata={"request_id": key.request_id})
    return vault.decrypt(row.answer) if row.encrypted and vault else row.answer
