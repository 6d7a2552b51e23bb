"""Webhook path, step 2 of 2: claims what is due, posts it, and hands over what came of it.

Invariant: nothing is posted that is not named in a committed claim; an endpoint belongs to one sender at a time, and
what an earlier one left behind is declared lost and made due again by the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Final
from uuid import UUID

from billing.runtime.clock import Clock
from billing.runtime.db import Database
from billing.services import webhook_deliveries
from billing.services.leases import Lease
from billing.services.webhook_deliveries import (
    ENDPOINTS_PER_DISCOVERY_MAX,
    FIRST,
    Attempt,
    Claimed,
    Outcome,
)
from workers.leases import LeaseKeeper
from workers.webhooks.poster import Poster
from workers.webhooks.recorder import Recorder, Result
from workers.webhooks.schedule import Exchange, Schedule
from workers.webhooks.settings import SenderSettings

# The topic of the hint that deliveries were committed.
HINT_TOPIC: Final = "deliveries"
TOO_MANY_REQUESTS: Final = 429


class Sender:
    """One process's sender. `step` runs inside `running`, in the loop whose wake is given here."""

    def __init__(
        self,
        database: Database,
        leases: LeaseKeeper,
        poster: Poster,
        clock: Clock,
        wake: asyncio.Event,
        settings: SenderSettings,
    ) -> None:
        self._database, self._leases, self._poster = database, leases, poster
        self._clock, self._wake, self._settings = clock, wake, settings
        self._schedule = Schedule(settings)
        self._recorder = Recorder(database, clock, settings, self._committed)
        self._group: asyncio.TaskGroup | None = None
        self._known: list[Lease] = []
        self._discovered_to = FIRST
        self._discover_at = self._look_at = 0.0
        self._looked_at = clock.now()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within it the sender works. At its end what is held is finished: answers awaited, results committed."""
        async with self._poster, asyncio.TaskGroup() as group:
            recording = group.create_task(self._recorder.run(), name="webhook recorder")
            self._group = group
            yield
            await self.settled()
            recording.cancel()

    def discover_next(self) -> None:
        """The next step looks for everything that is due, not only for what became so since the last."""
        self._discover_at = 0.0

    async def settled(self) -> None:
        """Waits until the result of everything that was claimed is committed."""
        await self._recorder.settled()

    async def step(self) -> int:
        """Looks for what became due and makes at most one claim, whose posts it begins; how many rows that were."""
        held = self._leases.usable()
        if not held:
            return 0
        at = time.monotonic()
        self._schedule.age(at)
        chosen = self._schedule.choose()
        if not chosen:
            await self._find(held)
            chosen = self._schedule.choose()
            return await self._claim(held, chosen) if chosen else self._rest()
        # Under load both at once: what is found now is claimed by the next step.
        claiming, finding = await asyncio.gather(
            self._claim(held, chosen), self._find(held), return_exceptions=True
        )
        if isinstance(claiming, BaseException):
            raise claiming
        if isinstance(finding, BaseException):
            raise finding
        return claiming

    def _rest(self) -> int:
        # Slots come back by age alone, and holds end by time; nobody else would wake the loop for them.
        loop = asyncio.get_running_loop()
        if not self._schedule.free_slots:
            loop.call_later(self._settings.slot_s, self._wake.set)
        if (release := self._schedule.next_release) is not None:
            pause_s = max(0.0, release - time.monotonic())
            if pause_s <= self._settings.pace_s:
                loop.call_later(pause_s, self._wake.set)
        return 0

    async def _find(self, held: list[Lease]) -> None:
        at = time.monotonic()
        if held != self._known or at >= self._discover_at:
            await self._discover(held)
        elif at >= self._look_at:
            await self._look(held)

    async def _discover(self, held: list[Lease]) -> None:
        """At the start, after a takeover and now and then: what an earlier owner left behind, and all that is due."""
        now, after = self._clock.now(), self._discovered_to
        async with self._database.connection() as connection:
            recovered = await webhook_deliveries.recover(connection, held, now=now)
            found = await webhook_deliveries.discover(connection, held, after=after, now=now)
        at = time.monotonic()
        for due in found:
            self._schedule.arrive(due.tenant_id, due.webhook_id, at)
        # A full page: the rest comes with the next step.
        more = len(found) == ENDPOINTS_PER_DISCOVERY_MAX
        self._discovered_to = found[-1].webhook_id if more else FIRST
        self._discover_at = at if more or recovered.more else at + self._settings.discovery_s
        self._known, self._looked_at = held, now
        self._schedule.forget(at)

    async def _look(self, held: list[Lease]) -> None:
        """Between discoveries: what became due since the last look, and a little before for late commits."""
        now = self._clock.now()
        after = self._looked_at - timedelta(seconds=self._settings.look_back_s)
        async with self._database.connection() as connection:
            found = await webhook_deliveries.recently_due(connection, held, after=after, now=now)
        at = time.monotonic()
        for due in found:
            self._schedule.arrive(due.tenant_id, due.webhook_id, at)
        self._looked_at, self._look_at = now, at + self._settings.look_pause_s

    async def _claim(self, held: Sequence[Lease], chosen: dict[UUID, int]) -> int:
        # Each shard is kept until the last result of its claim is committed.
        acts = {lease.shard: ExitStack() for lease in held}
        claimed: list[Claimed] = []
        try:
            for lease in held:
                acts[lease.shard].enter_context(self._leases.acting(lease))
            async with self._database.connection() as connection:
                claimed = await webhook_deliveries.claim(
                    connection,
                    chosen,
                    held,
                    now=self._clock.now(),
                    claim_lease_s=self._settings.claim_lease_s,
                )
        except BaseException:
            self._schedule.abandon(chosen, time.monotonic())
            raise
        else:
            for claim_id, shard, count in _claims_in(claimed):
                self._recorder.expect(claim_id, count, acts.pop(shard))
        finally:
            for act in acts.values():
                act.close()
        self._begin(chosen, claimed)
        return len(claimed)

    def _begin(self, chosen: dict[UUID, int], claimed: Sequence[Claimed]) -> None:
        assert self._group is not None, "step runs inside running"
        at = time.monotonic()
        rates = {row.webhook_id: row.rate_per_second for row in claimed}
        self._schedule.settle(chosen, Counter(row.webhook_id for row in claimed), at, rates)
        for row in claimed:
            exchange = self._schedule.begin(row.webhook_id, at)
            self._group.create_task(self._exchange(row, exchange))

    async def _exchange(self, claimed: Claimed, exchange: Exchange) -> None:
        attempt = await self._poster.attempt(claimed)
        starved = not self._schedule.free_slots
        self._schedule.end(exchange)
        self._recorder.put(Result(attempt, exchange))
        if starved:
            self._wake.set()

    def _committed(self, results: Sequence[Result]) -> None:
        at = time.monotonic()
        for result in results:
            success = result.attempt.outcome is Outcome.DELIVERED
            if hold_s := self._hold_s(result.attempt):
                self._schedule.hold(result.exchange, at, hold_s)
            self._schedule.commit(result.exchange, at, success=success)
        # There is room again for those at their cap.
        self._wake.set()

    def _hold_s(self, attempt: Attempt) -> float:
        """How long the endpoint asked to be left alone: by Retry-After with any refusal, or by 429."""
        if attempt.outcome is not Outcome.REFUSED:
            return 0.0
        if attempt.retry_after_s is None:
            return self._settings.hold_s if attempt.response_status == TOO_MANY_REQUESTS else 0.0
        return float(attempt.retry_after_s)


def _claims_in(claimed: Sequence[Claimed]) -> list[tuple[UUID, int, int]]:
    """Each claim's id, shard and number of rows."""
    counts = Counter((row.claim_id, row.shard) for row in claimed)
    return [(claim_id, shard, count) for (claim_id, shard), count in counts.items()]
