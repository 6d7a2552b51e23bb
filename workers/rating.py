"""Usage path, step 3: the worker that rates what the folds marked as due.

Invariant: any number of these may run side by side and again; a subscription is rated by one at a time and at most
once per interval, and what a step did not come to stays due.
"""

from __future__ import annotations

from billing.runtime.clock import Clock
from billing.runtime.db import Database
from billing.services.rating import START, RatingSettings, rate_due


class RatingWorker:
    """Goes round all subscriptions with due usage, one batch a step, so that none waits for another's turn twice."""

    def __init__(self, database: Database, clock: Clock, settings: RatingSettings) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._after = START

    async def step(self) -> int:
        """Rates one batch; 0 when the round came to its end and nothing's turn had come."""
        async with self._database.transaction() as tx:
            done, after = await rate_due(tx, self._after, self._settings, now=self._clock.now())
        # Only what is committed counts as gone by.
        self._after = after
        return done or int(after != START)
