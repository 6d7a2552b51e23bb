"""Webhook path, its end: how long deliveries are kept.

Invariant: matched = rows by state + closing totals by state, at every moment; a delivery leaves the rows and enters the
totals in one statement. What still waits is kept, however old.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import queries.webhook_retention

from billing.runtime.db import Database

DELIVERIES_KEPT: Final = timedelta(days=30)
# As long as the log keeps what they would send.
DEAD_LETTERS_KEPT: Final = timedelta(days=90)


async def close_old(database: Database, *, now: datetime, most: int) -> int:
    """Counts and deletes at most so many deliveries that are done and old; how many."""
    before = now - DELIVERIES_KEPT
    async with database.transaction() as tx:
        gone = await queries.webhook_retention.close_old_deliveries(
            tx,
            before_event=UUID(int=int(before.timestamp() * 1000) << 80),
            before=before,
            dead_before=now - DEAD_LETTERS_KEPT,
            most=most,
        )
    return gone or 0
