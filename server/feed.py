"""The rim, step 4: one reader of the feed.

Invariant: a reader holds at most one page and no connection while its client reads, so a slow one slows nobody; it is
told something at least every `HEARTBEAT_S`, so that both sides notice a dead connection. A hint makes it look at once;
a lost one only makes it look later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from billing.services import event_feed
from billing.services.event_feed import FeedFilter, FeedPage, Positions
from server.house import House

# Between two looks without a hint: short while events come, long while none do.
PAUSE_MIN_S: Final = 0.01
PAUSE_MAX_S: Final = 1.0
HEARTBEAT_S: Final = 15.0


async def watch(
    house: House, tenant_id: UUID, begin: Positions | None, wanted: FeedFilter
) -> AsyncIterator[tuple[bytes, Positions]]:
    """Envelopes with the positions behind them, for ever; an empty envelope is a sign of life.

    `begin` is None for now, and empty for the oldest event that is kept. The first sign of life comes at once, so that
    a reader has a cursor before anything happens. Raises CursorInvalid and CursorTooOld.
    """
    hinted = house.hints(
        event_feed.hint_topic(tenant_id)
    )  # before the first look, so that none is missed
    if not begin:
        async with house.api.connection() as connection:
            start = event_feed.present if begin is None else event_feed.beginning
            begin = await start(connection)
    page = await _look(house, tenant_id, begin, wanted)
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
            pause = PAUSE_MIN_S if await _within(hinted, pause) else min(pause * 2, PAUSE_MAX_S)
        page = await _look(house, tenant_id, page.positions, wanted)


async def _within(hinted: asyncio.Event, seconds: float) -> bool:
    """Waits for a hint, at most so long; tells whether one came."""
    try:
        async with asyncio.timeout(seconds):
            await hinted.wait()
    except TimeoutError:
        return False
    hinted.clear()
    return True


async def _look(house: House, tenant_id: UUID, known: Positions, wanted: FeedFilter) -> FeedPage:
    async with house.api.transaction(tenant_id, snapshot=True) as snapshot:
        return await event_feed.read(snapshot, tenant_id, known, wanted)
