"""The rim, step 4: one reader of the feed.

Invariant: a reader holds at most one page and no connection while its client reads, so a slow one slows nobody; it is
told something at least every `HEARTBEAT_S`, so that both sides notice a dead connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from billing.runtime.db import Database
from billing.services import event_feed
from billing.services.event_feed import FeedFilter, FeedPage, Positions

# Between two looks: short while events come, long while none do.
PAUSE_MIN_S: Final = 0.01
PAUSE_MAX_S: Final = 0.25
HEARTBEAT_S: Final = 15.0


async def watch(
    database: Database, tenant_id: UUID, begin: Positions | None, wanted: FeedFilter
) -> AsyncIterator[tuple[bytes, Positions]]:
    """Envelopes with the positions behind them, for ever; an empty envelope is a sign of life.

    `begin` is None for now. The first sign of life comes at once, so that a reader has a cursor before anything
    happens. Raises CursorInvalid.
    """
    if begin is None:
        async with database.connection() as connection:
            begin = await event_feed.present(connection)
    page = await _look(database, tenant_id, begin, wanted)
    yield b"", begin
    told_at = time.monotonic()
    pause = PAUSE_MIN_S
    while True:
        for item in page.items:
            yield item.envelope, item.positions
        if page.items:
            told_at, pause = time.monotonic(), PAUSE_MIN_S
        elif time.monotonic() - told_at >= HEARTBEAT_S:
            yield b"", page.positions
            told_at = time.monotonic()
        if not page.full:
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_MAX_S)
        page = await _look(database, tenant_id, page.positions, wanted)


async def _look(
    database: Database, tenant_id: UUID, known: Positions, wanted: FeedFilter
) -> FeedPage:
    async with database.transaction(tenant_id, snapshot=True) as snapshot:
        return await event_feed.read(snapshot, tenant_id, known, wanted)
