"""Business time, step 2: the worker that moves test clocks.

Invariant: a step moves a clock by one due instant at most, and only when all of the present one is done; a clock that
waits too long for the same thing fails with what it waits for, so none hangs; while a pause holds back events of the
tenant, it waits. The clock's own due work is done here as well as by the scheduler, whoever is first, so that an
advance need not wait for anyone's poll.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from billing.runtime.clock import Clock
from billing.runtime.db import Database
from billing.services import clock_walk
from billing.services.clock_walk import AdvancingClock, Wanted, Watched
from billing.services.draft_claims import OnTestClocks
from billing.services.due_invoices import tell_due
from billing.services.due_subscriptions import Share, run_changes, run_due
from billing.services.finalization import finalize_due
from billing.services.late_usage import wake_late_usage
from workers.scheduler import SchedulerSettings


@dataclass(frozen=True, slots=True)
class ClockSettings:
    """How long a clock may wait for the same thing, in machine time, and in which batches its due work is done."""

    stall_s: float = 30.0
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)


class ClockWorker:
    """Moves every test clock that is on its way. `wanted` says which consumer handles which subjects."""

    def __init__(
        self, database: Database, clock: Clock, wanted: Wanted, settings: ClockSettings
    ) -> None:
        self._database = database
        self._clock = clock
        self._wanted = wanted
        self._watched = Watched(clock.now(), timedelta(seconds=settings.stall_s))
        self._settings = settings
        self.advancing = False  # whether a clock was on its way at the last step

    async def step(self) -> int:
        """Does or moves what can be; returns 0 when every clock is ready or waits for somebody else."""
        async with self._database.connection() as connection:
            clocks = await clock_walk.list_advancing(connection)
        self.advancing = bool(clocks)
        return sum([await self._advance(clock) for clock in clocks])

    async def _advance(self, clock: AdvancingClock) -> int:
        done = await self._do_due(clock)
        if done:
            return done
        async with self._database.transaction(snapshot=True) as tx:
            waiting = await clock_walk.waiting_for(tx, clock, self._wanted)
            pause = await clock_walk.paused(tx, clock) if waiting else ""
            to = await clock_walk.next_instant(tx, clock)
        now = self._clock.now()
        async with self._database.transaction() as tx:
            if not waiting:
                return int(await clock_walk.move(tx, clock, to, now=now))
            # Its end changes what is told, so that the time to stall in begins anew.
            await clock_walk.tell(tx, clock, waiting + pause, now=now)
            if not pause:
                await clock_walk.fail_if_stalled(tx, clock, waiting, watched=self._watched, now=now)
        return 0

    async def _do_due(self, clock: AdvancingClock) -> int:
        now = self._clock.now()
        settings = self._settings.scheduler
        async with self._database.transaction() as tx:
            await wake_late_usage(tx, batch_max=settings.batch_max, tenant_id=clock.tenant_id)
            done = await run_due(
                tx,
                Share.ON_TEST_CLOCKS,
                batch_max=settings.batch_max,
                now=now,
                tenant_id=clock.tenant_id,
            )
        scope = OnTestClocks(clock.tenant_id)
        done += await run_changes(
            self._database, batch_max=settings.changes_max, now=now, scope=scope
        )
        done += await finalize_due(self._database, settings.finalization, now=now, scope=scope)
        return done + await tell_due(
            self._database, batch_max=settings.batch_max, now=now, scope=scope
        )
