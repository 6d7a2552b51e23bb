"""Every path's ground: the log, its links, the inbox and the feed go by the week.

Invariant: no week goes that something still refers to, and it is asked again when it is detached, when nobody can find
its events any more; then it comes back. The inbox goes in the order of its weeks, so that healing, which may go back,
never meets a week whose inbox is gone. Nothing here waits for a lock that live traffic has to queue behind.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

import queries.retention
from queries.retention import ListOldPartitionsRow as Partition

from billing.runtime.db import Database

log = logging.getLogger(__name__)

__all__ = ["Kept", "Partition", "drop_partition", "list_old", "needed_by", "turn_feed"]

INBOX: Final = "inbox"
FEED: Final = "event_feed"
ATTACHED: Final = "attached"
DETACHING: Final = "detaching"  # a sweep died within it, or ran into a time limit


@dataclass(frozen=True, slots=True)
class Kept:
    """How long the log (and the feed with it) and the inbox are kept. `heals` is false where nothing is routed."""

    log: timedelta
    inbox: timedelta
    heals: bool = True


async def turn_feed(database: Database, kept: Kept, *, now: datetime) -> None:
    """Begins a new week of the feed when it is time, and lifts its floor above the weeks that are over."""
    async with database.transaction() as tx:
        await queries.retention.turn_feed_week(tx, week=_monday(now))
        await queries.retention.raise_feed_floor(tx, before=_monday(now - kept.log))


async def list_old(database: Database, kept: Kept, *, now: datetime, most: int) -> list[Partition]:
    """The weeks that are older than what is kept, the oldest first."""
    async with database.connection() as connection:
        oldest = await queries.retention.get_oldest_feed_week(connection)
        return await queries.retention.list_old_partitions(
            connection,
            log_before=now - kept.log,
            inbox_before=now - kept.inbox,
            feed_before=oldest,
            most=most,
        )


async def needed_by(database: Database, partition: Partition, kept: Kept) -> str | None:
    """What still refers to an event of the week; None when nothing does."""
    if partition.parent == FEED:
        return None
    async with database.connection() as connection:
        return await queries.retention.find_need(
            connection,
            lower=partition.lower_id,
            upper=partition.upper_id,
            heals=kept.heals,
            with_webhooks=partition.parent != INBOX,
        )


async def drop_partition(
    owner: Database, database: Database, partition: Partition, kept: Kept
) -> bool:
    """Detaches the week without stopping anybody, asks once more, and drops it, or attaches it again.

    What was interrupted is taken up where it stood. Raises what the database does, time limits above all: then the next
    sweep goes on.
    """
    async with owner.connection() as connection:
        if partition.state == ATTACHED:
            await connection.execute(partition.detach_statement)
        elif partition.state == DETACHING:
            await connection.execute(partition.finalize_statement)
        need = await needed_by(database, partition, kept)
        if need is not None:
            await connection.execute(partition.attach_statement)
            log.warning("%s is kept after all, for %s", partition.child, need)
            return False
        await connection.execute(partition.drop_statement)
    return True


def _monday(at: datetime) -> date:
    return at.date() - timedelta(days=at.weekday())
