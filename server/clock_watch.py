"""The rim, step 4: one watcher of a test clock.

Invariant: a watcher is told of every state that it looks at and that differs from the one before, and holds no
connection between two looks; the stream ends with the advance.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from billing.services.test_clock import ADVANCING, ClockReport, report_test_clock
from server.house import House

PAUSE_S: Final = 0.1


async def watch_clock(house: House, tenant_id: UUID) -> AsyncIterator[ClockReport]:
    """The clock at once, then whenever it has moved or waits for something else, until it is ready or has failed.

    Raises TestClockNotFound.
    """
    told = None
    while True:
        async with house.api.transaction(tenant_id, snapshot=True, read_only=True) as tx:
            report = await report_test_clock(tx, tenant_id)
        clock = report.clock
        state = (clock.business_time, clock.status, clock.waiting_for)
        if state != told:
            yield report
            told = state
        if clock.status != ADVANCING:
            return
        await asyncio.sleep(PAUSE_S)
