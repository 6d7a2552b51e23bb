"""Webhook path, step 2: results on their way into the database, in batches.

Invariant: a result is kept and tried again until it is committed; a claim ends with the commit of its last result, and
so does the lease's act that it is. Only then may the endpoint be claimed for again. What results mean for endpoints is
written after them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from billing.domain.backoff import ExponentialBackoff
from billing.domain.errors import Unavailable
from billing.domain.webhook import FAILING_LIMIT
from billing.runtime.clock import Clock
from billing.runtime.db import Database
from billing.services import webhook_deliveries, webhook_health
from billing.services.webhook_deliveries import Attempt
from workers.webhooks.breakers import Breakers, Judged
from workers.webhooks.schedule import Exchange
from workers.webhooks.settings import SenderSettings

log = logging.getLogger(__name__)

# Whatever the session died of; an InternalClientError is one that broke off within a message.
_KEPT: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    Unavailable,
)
_AGAIN: Final = ExponentialBackoff(base_ms=50, cap_ms=5_000)


@dataclass(slots=True)
class OpenClaim:
    """A claim row: how many of its results are not committed, and the act that ends with it."""

    left: int
    act: ExitStack


@dataclass(frozen=True, slots=True)
class Result:
    """A completed attempt and the exchange that it ends."""

    attempt: Attempt
    exchange: Exchange


class Recorder:
    """Takes results by `put` and writes them: 200 at a time, or what there is after 4 ms."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        settings: SenderSettings,
        breakers: Breakers,
        on_commit: Callable[[Sequence[Result]], None],
    ) -> None:
        self._database, self._clock, self._settings = database, clock, settings
        self._breakers = breakers
        self._on_commit = on_commit
        self._claims: dict[UUID, OpenClaim] = {}
        self._waiting: deque[Result] = deque()
        self._some, self._full, self._done = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._done.set()

    def expect(self, claim_id: UUID, results: int, act: ExitStack) -> None:
        """So many results of this claim will come; `act` is closed when the last is committed."""
        self._claims[claim_id] = OpenClaim(results, act)
        self._done.clear()

    def put(self, result: Result) -> None:
        """Takes a result; it will be committed, or the claim runs out with the process."""
        self._waiting.append(result)
        self._some.set()
        if len(self._waiting) >= self._settings.record_rows_max:
            self._full.set()

    async def settled(self) -> None:
        """Waits until every expected result is committed."""
        await self._done.wait()

    async def run(self) -> None:
        """Writes until it is cancelled."""
        while True:
            await self._some.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.record_after_s):
                    await self._full.wait()
            count = min(len(self._waiting), self._settings.record_rows_max)
            batch = [self._waiting.popleft() for _ in range(count)]
            if not self._waiting:
                self._some.clear()
            if len(self._waiting) < self._settings.record_rows_max:
                self._full.clear()
            await self._write(batch)

    async def _write(self, batch: Sequence[Result]) -> None:
        try:
            await self._commit(batch)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError):
            # One of them cannot be stored, and must not hold up the others. Left alone, its claim runs out as lost.
            log.exception(
                "a batch of %d results was refused; they are written one by one", len(batch)
            )
            for result in batch:
                try:
                    await self._commit([result])
                except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError):
                    log.exception("the result of event %s is lost", result.attempt.claimed.event_id)
                    self._finish([result], closed=())

    async def _commit(self, batch: Sequence[Result]) -> None:
        closed = self._closed_by(batch)
        attempts = [result.attempt for result in batch]
        judged = self._breakers.judge(attempts, self._clock.now())
        failures = 0
        while True:
            try:
                await self._record(attempts, closed)
                await self._tell_endpoints(attempts, judged)
                break
            except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError):
                raise
            except _KEPT:
                failures += 1
                log.exception("%d results could not be written; they are kept", len(batch))
                delay = _AGAIN.delay(failures, jitter_permille=random.randint(0, 1000))
                await asyncio.sleep(delay.total_seconds())
        self._finish(batch, closed)

    async def _record(self, attempts: Sequence[Attempt], closed: Sequence[UUID]) -> None:
        now = self._clock.now()
        # Only deliveries that die need more than one statement, since an event tells of them.
        exhausts = webhook_deliveries.exhausts(attempts, now)
        opened = self._database.transaction() if exhausts else self._database.connection()
        async with opened as connection:
            await webhook_deliveries.record(connection, attempts, closed, now=now)

    async def _tell_endpoints(self, attempts: Sequence[Attempt], judged: Judged) -> None:
        now = self._clock.now()
        if judged.failing or judged.healthy:
            async with self._database.transaction() as tx:
                since = await webhook_health.note(tx, judged.failing, judged.healthy)
            self._breakers.learn(since)
            long = {webhook_id for webhook_id, at in since.items() if now - at >= FAILING_LIMIT}
            latest = {attempt.claimed.webhook_id: attempt for attempt in attempts}
            for webhook_id in sorted(long):
                async with self._database.transaction() as tx:
                    await webhook_health.disable_failing(tx, latest[webhook_id], now)
        for gone in webhook_health.gone_endpoints(attempts, now):
            async with self._database.transaction() as tx:
                await webhook_health.disable_gone(tx, gone, now)
        for answered in webhook_health.answered_probes(attempts):
            async with self._database.transaction() as tx:
                await webhook_health.revive(tx, answered, now)

    def _closed_by(self, batch: Sequence[Result]) -> list[UUID]:
        left: dict[UUID, int] = {}
        for result in batch:
            claim_id = result.attempt.claimed.claim_id
            left[claim_id] = left.get(claim_id, self._claims[claim_id].left) - 1
        return sorted(claim_id for claim_id, count in left.items() if count == 0)

    def _finish(self, batch: Sequence[Result], closed: Sequence[UUID]) -> None:
        for result in batch:
            claim_id = result.attempt.claimed.claim_id
            claim = self._claims[claim_id]
            claim.left -= 1
            if not claim.left:
                claim.act.close()
                del self._claims[claim_id]
        self._on_commit(batch)
        if not self._claims:
            self._done.set()
