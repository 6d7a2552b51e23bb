"""Every path, beside it: what waits where, and who owns what.

Invariant: each figure is bounded by `COUNT_MAX`, so that looking at a house in trouble does not add to the trouble.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

import queries.status

from billing.runtime.db import Connection

COUNT_MAX: Final = 1_000_000
LEASES_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Queue:
    """How many wait in a queue (at most COUNT_MAX are counted), and since when the oldest of them waits."""

    name: str
    pending: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class LeaseState:
    """A shard of a kind, its holder (None: nobody now), and how many owners it has had."""

    kind: str
    shard: int
    holder: UUID | None
    term: int


class _Count(Protocol):
    @property
    def pending(self) -> int: ...
    @property
    def oldest(self) -> datetime | None: ...


async def list_queues(connection: Connection) -> list[Queue]:
    """The queues in the order of the path: of one tenant under its role, of the whole house for a worker."""
    status = queries.status
    counted: list[tuple[str, _Count | None]] = [
        ("outbox", await status.count_outbox(connection, most=COUNT_MAX)),
        (
            "outbox.dead_letters",
            await status.count_outbox_dead_letters(connection, most=COUNT_MAX),
        ),
        ("router.waiting", await status.count_router_waiting(connection, most=COUNT_MAX)),
        (
            "router.dead_letters",
            await status.count_router_dead_letters(connection, most=COUNT_MAX),
        ),
        ("rating.due", await status.count_rating_due(connection, most=COUNT_MAX)),
        ("rating.failed", await status.count_rating_failures(connection, most=COUNT_MAX)),
        ("invoices.drafts", await status.count_drafts(connection, most=COUNT_MAX)),
        ("invoices.blocked", await status.count_blocked_drafts(connection, most=COUNT_MAX)),
        ("webhooks.pending", await status.count_deliveries(connection, most=COUNT_MAX)),
        ("webhooks.dead_letters", await status.count_dead_deliveries(connection, most=COUNT_MAX)),
    ]
    return [
        Queue(name, count.pending, count.oldest) for name, count in counted if count is not None
    ]


async def list_leases(connection: Connection) -> list[LeaseState]:
    """Who owns what now; for the role of the workers only."""
    rows = await queries.status.list_leases(connection, most=LEASES_MAX)
    return [LeaseState(row.kind, row.shard, row.holder, row.term) for row in rows]


async def count_blocked(connection: Connection) -> dict[str, int]:
    """How many drafts each reason keeps from becoming final; reasons that block none are left out."""
    rows = await queries.status.list_blocked_counts(connection, most=COUNT_MAX)
    return {row.reason: row.drafts for row in rows}
