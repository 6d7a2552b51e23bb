"""Webhook path, beside it: the worker that carries running recoveries on.

Invariant: each recovery is a transaction of its own under its row lock, so any number of workers may run side by side
and die at any moment.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from billing.runtime.clock import Clock
from billing.runtime.db import Database
from billing.services import webhook_recoveries

RECOVERIES_PER_STEP: Final = 20
_BEFORE_ALL: Final = UUID(int=0)


class RecoveryWorker:
    """`step` takes some running recoveries a step further, in turn."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock
        self._after = _BEFORE_ALL

    async def step(self) -> int:
        """How much was done: deliveries made, and stretches gone through."""
        done = 0
        for tenant_id, recovery_id in await self._next():
            async with self._database.transaction() as tx:
                done += await webhook_recoveries.advance(
                    tx, tenant_id, recovery_id, now=self._clock.now()
                )
        return done

    async def _next(self) -> list[tuple[UUID, UUID]]:
        most = RECOVERIES_PER_STEP
        async with self._database.connection() as connection:
            running = await webhook_recoveries.list_running(connection, self._after, most=most)
        self._after = running[-1][1] if len(running) == most else _BEFORE_ALL
        return running
