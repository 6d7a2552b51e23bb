"""Every path's ground: what must be made ahead and what may go.

Invariant: the log and the inbox have their partitions before their time comes; an answer kept for retries is deleted
only when it is older than the promise, and on the bus only what is routed is removed.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Final

import queries.router
import queries.tenant_limits
import queries.upkeep

from billing.runtime.bus.base import StreamState
from billing.runtime.db import Database

FULL_PERCENT: Final = 80


async def make_partitions(database: Database, *, now: datetime, weeks: int) -> int:
    """Partitions for this week and the following ones, `weeks` in all; how many were missing."""
    async with database.transaction() as tx:
        return await queries.upkeep.make_event_partitions(tx, first=now, weeks=weeks) or 0


async def delete_old_answers(database: Database, *, before: datetime, most: int) -> int:
    """Deletes the oldest answers made before an instant, at most so many; how many."""
    async with database.connection() as connection:
        return await queries.upkeep.delete_old_answers(connection, before=before, most=most)


async def delete_old_record_counts(database: Database, *, before: date, most: int) -> int:
    """Deletes the counts of accepted usage records of the oldest days before one, at most so many; how many."""
    async with database.connection() as connection:
        return await queries.tenant_limits.delete_old_record_counts(
            connection, before=before, most=most
        )


async def routed_positions(database: Database) -> dict[int, tuple[str, int]]:
    """Per partition the stream's identity, and the last sequence that is routed."""
    async with database.connection() as connection:
        rows = await queries.router.list_positions(connection)
    return {row.partition: (row.stream_identity, row.last_sequence) for row in rows}


def trim_to(stream: StreamState, routed: int, last_before_retention: int) -> int:
    """Up to which sequence a stream is trimmed; below its first one: not at all.

    What is routed and older than the retention goes; in a stream that is nearly full, the older half of what is routed.
    """
    up_to = min(routed, last_before_retention)
    if stream.max_bytes and stream.stored_bytes * 100 >= stream.max_bytes * FULL_PERCENT:
        up_to = max(up_to, (stream.first_seq + routed) // 2)
    return min(up_to, routed)
