"""Every call that changes something: who did what to what, when, and why.

Invariant: an entry is committed together with what it tells of, so neither is there without the other; the database
lets nobody change it. A repeated request_id is answered and changes nothing, so it has no entry of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.audit
from queries.models import AuditLog as AuditEntry

from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services.actor import Cause

__all__ = ["HOUSE", "AuditEntry", "AuditFilter", "Change", "list_entries", "record"]

HOUSE: Final = UUID(int=0)  # the tenant of what concerns all of them
_LAST_ID: Final = UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class Change:
    """What was worked on, as people name it; why, where that was said; and the request id, where there was one."""

    resource: str
    note: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries. A method is named in full, or by its last part alone. Times are taken to the millisecond."""

    tenant_id: UUID | None = None
    actor: str | None = None
    method: str | None = None
    resource: str | None = None
    created_from: datetime | None = None
    created_until: datetime | None = None


async def record(
    tx: Connection, tenant_id: UUID, change: Change, cause: Cause, *, now: datetime
) -> None:
    """Writes an entry; the cause says who did it by which method."""
    await queries.audit.insert_audit_entry(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        actor=cause.actor,
        method=cause.method,
        resource=change.resource,
        correlation_id=cause.correlation_id,
        request_id=change.request_id,
        note=change.note,
        now=now,
    )


async def list_entries(
    connection: Connection, wanted: AuditFilter, *, before: UUID | None, limit: int
) -> list[AuditEntry]:
    """At most `limit` entries, newest first, those before the entry `before`."""
    end = _first_at(wanted.created_until) if wanted.created_until else _LAST_ID
    return await queries.audit.list_audit_entries(
        connection,
        tenant_id=wanted.tenant_id,
        actor=wanted.actor,
        method=f"/{wanted.method.lstrip('/')}" if wanted.method else None,
        resource=wanted.resource,
        first_id=_first_at(wanted.created_from) if wanted.created_from else UUID(int=0),
        before_id=min(before, end) if before else end,
        most=limit,
    )


def _first_at(instant: datetime) -> UUID:
    """Below all ids that are made at this instant or later."""
    return UUID(int=int(instant.timestamp() * 1000) << 80)
