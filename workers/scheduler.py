"""Subscription path, step 2, and invoice path, steps 1 and 4 to 6: whatever falls due is done.

Invariant: each step is bounded batches of short transactions, which any number of schedulers may run side by side and
again; what a step did not come to stays due.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from billing.runtime.clock import Clock
from billing.runtime.db import Database
from billing.services.draft_claims import Blocked, FinalizationSettings, OnTestClocks
from billing.services.due_invoices import tell_due
from billing.services.due_subscriptions import Share, run_changes, run_due
from billing.services.finalization import finalize_due
from billing.services.late_usage import wake_late_usage
from billing.services.operations_status import count_blocked
from workers.metrics import SchedulerMetrics


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """How many subscriptions a transaction takes, and every how many steps what has waited least goes first.

    `changes_max` is how many scheduled changes a step executes; every how many steps late usage is sought.
    `count_every` is how often blocked drafts are counted (machine time).
    """

    batch_max: int = 500
    newest_every: int = 4
    changes_max: int = 50
    late_every: int = 20
    count_every: timedelta = timedelta(seconds=10)
    finalization: FinalizationSettings = field(default_factory=FinalizationSettings)


class Scheduler:
    """Starts, renews and bills; a step takes one batch of each kind."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        settings: SchedulerSettings,
        metrics: SchedulerMetrics | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._metrics = metrics
        self._counted_at: datetime | None = None
        self._steps = 0

    async def step(self) -> int:
        """Acts on what is due, in machine time and on test clocks; returns how much it did."""
        now = self._clock.now()
        self._steps += 1
        # Catching up after an outage goes oldest first, and must not hold back what falls due now.
        newest = self._steps % self._settings.newest_every == 0
        done = await self._run(Share.NEWEST if newest else Share.OLDEST, now)
        done += await self._run(Share.ON_TEST_CLOCKS, now)
        done += await self._change(now)
        finalization = self._settings.finalization
        done += await finalize_due(self._database, finalization, now=now)
        done += await finalize_due(self._database, finalization, now=now, scope=OnTestClocks())
        done += await tell_due(self._database, batch_max=self._settings.batch_max, now=now)
        done += await tell_due(
            self._database, batch_max=self._settings.batch_max, now=now, scope=OnTestClocks()
        )
        await self._count_blocked(now)
        return done

    async def _change(self, now: datetime) -> int:
        size = self._settings.changes_max
        done = await run_changes(self._database, batch_max=size, now=now)
        done += await run_changes(self._database, batch_max=size, now=now, scope=OnTestClocks())
        if self._steps % self._settings.late_every == 0:
            async with self._database.transaction() as tx:
                done += await wake_late_usage(tx, batch_max=self._settings.batch_max)
        return done

    async def _count_blocked(self, now: datetime) -> None:
        """Shows how many drafts each reason blocks, now and then."""
        if self._metrics is None:
            return
        if self._counted_at and now - self._counted_at < self._settings.count_every:
            return
        self._counted_at = now
        async with self._database.connection() as connection:
            counts = await count_blocked(connection)
        for reason in Blocked:
            self._metrics.blocked_drafts.labels(reason).set(counts.get(reason, 0))

    async def _run(self, share: Share, now: datetime) -> int:
        async with self._database.transaction() as tx:
            return await run_due(tx, share, batch_max=self._settings.batch_max, now=now)
