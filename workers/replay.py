"""Replay path, steps 3 and 4: the worker that carries running replays on.

Invariant: each replay is a transaction of its own under its row lock, so any number of workers may run side by side and
die at any moment. Replays give way to live traffic: their publications stand behind all live ones in the outbox, and
only a few of them at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from billing.runtime.clock import Clock
from billing.runtime.db import Database
from billing.runtime.faults import Fault, fault_of
from billing.services import replay_progress
from billing.services.consumers import Wanted
from billing.services.replay_progress import Pace, Running

_BEFORE_ALL: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """Counts and seconds as the names say."""

    replays_per_step: int = 20
    slice_max: int = 2_000
    queued_max: int = 16_000
    # A replay begins with so few, and then has twice as many queued at most as it has behind it: how fast they go is
    # not known before, and what is queued at once is work beside live traffic.
    queued_first: int = 250
    # When nothing more comes to its consumers for so long, what they lack is sent again.
    rearm_after_s: float = 60.0

    @property
    def pace(self) -> Pace:
        """What one step of one replay keeps to."""
        return Pace(
            self.slice_max,
            self.queued_max,
            self.queued_first,
            timedelta(seconds=self.rearm_after_s),
        )


class ReplayWorker:
    """Carries replays on. `wanted` says which consumer handles which subjects; empty where nothing is routed."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        wanted: Wanted,
        settings: ReplaySettings | None = None,
    ) -> None:
        self._database, self._clock, self._wanted = database, clock, wanted
        self._settings = settings or ReplaySettings()
        self._after = _BEFORE_ALL

    async def step(self) -> int:
        """Takes some running replays a step further, in turn; returns how much was done.

        One that fails does not keep the others; what failed is raised when all have had their turn.
        """
        done, failures = 0, []
        for running in await self._next():
            try:
                done += await self._advance(running)
            except Exception as error:
                if fault_of(error) is Fault.OUTAGE:
                    raise
                failures.append(error)
        if failures:
            raise ExceptionGroup("replays that could not go on", failures)
        return done

    async def _next(self) -> list[Running]:
        most = self._settings.replays_per_step
        async with self._database.connection() as connection:
            running = await replay_progress.list_running(connection, self._after, most=most)
            if not running and self._after != _BEFORE_ALL:
                running = await replay_progress.list_running(connection, _BEFORE_ALL, most=most)
        self._after = running[-1].id if len(running) == most else _BEFORE_ALL
        return running

    async def _advance(self, running: Running) -> int:
        async with self._database.transaction() as tx:
            return await replay_progress.advance(
                tx, running, self._wanted, self._settings.pace, now=self._clock.now()
            )
