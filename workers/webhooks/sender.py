"""Webhook path, step 2 of 2: claims what is due, posts it, and hands over what came of it.

Invariant: nothing is posted that is not named in a committed claim; an endpoint belongs to one sender at a time, and
what an earlier one left behind is declared lost and made due again by the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
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
from workers.webhooks.breakers import Breakers
from workers.webhooks.poster import Poster
from workers.webhooks.recorder import Recorder, Result
from workers.webhooks.schedule import Exchange, Schedule
from workers.webhooks.settings import SenderSettings

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
        self.schedule = Schedule(settings)
        self._breakers = Breakers()
        self._recorder = Recorder(database, clock, settings, self._breakers, self._committed)
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
        self.schedule.age(at)
        chosen = self.schedule.choose()
        if not chosen:
            await self._find(held)
            chosen = self.schedule.choose()
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
        if not self.schedule.free_slots:
            loop.call_later(self._settings.slot_s, self._wake.set)
        if (release := self.schedule.next_release) is not None:
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
        else:
            # A hint so soon after a look must not wait for the loop's next pause to end.
            asyncio.get_running_loop().call_later(self._look_at - at, self._wake.set)

    async def _discover(self, held: list[Lease]) -> None:
        """At the start, after a takeover and now and then: what an earlier owner left behind, and all that is due."""
        now, after = self._clock.now(), self._discovered_to
        if held != self._known:
            self._breakers.forget()
        async with self._database.transaction() as tx:
            recovered = await webhook_deliveries.recover(tx, held, now=now)
        async with self._database.connection() as connection:
            found = await webhook_deliveries.discover(connection, held, after=after, now=now)
        await self._probe(held)
        at = time.monotonic()
        for due in found:
            self.schedule.arrive(due.tenant_id, due.webhook_id, at)
        # A full page: the rest comes with the next step.
        more = len(found) == ENDPOINTS_PER_DISCOVERY_MAX
        self._discovered_to = found[-1].webhook_id if more else FIRST
        self._discover_at = at if more or recovered.more else at + self._settings.discovery_s
        self._known, self._looked_at = held, now
        self.schedule.forget(at)

    async def _look(self, held: list[Lease]) -> None:
        """Between discoveries: what became due since the last look, and a little before for late commits."""
        now = self._clock.now()
        after = self._looked_at - timedelta(seconds=self._settings.look_back_s)
        async with self._database.connection() as connection:
            found = await webhook_deliveries.recently_due(connection, held, after=after, now=now)
        at = time.monotonic()
        for due in found:
            self.schedule.arrive(due.tenant_id, due.webhook_id, at)
        self._looked_at, self._look_at = now, at + self._settings.look_pause_s

    async def _claim(self, held: Sequence[Lease], chosen: dict[UUID, int]) -> int:
        try:
            claimed = await self._take(held, partial(webhook_deliveries.claim, rooms=chosen))
        except BaseException:
            self.schedule.abandon(chosen, time.monotonic())
            raise
        self._begin(chosen, claimed)
        if self.schedule.waits:
            self._wake.set()
        return len(claimed)

    async def _probe(self, held: Sequence[Lease]) -> None:
        """Asks endpoints that were disabled for failing whether they answer again."""
        assert self._group is not None, "step runs inside running"
        at = time.monotonic()
        for row in await self._take(held, webhook_deliveries.claim_probes):
            exchange = self.schedule.begin_probe(row.tenant_id, row.webhook_id, at)
            self._group.create_task(self._exchange(row, exchange))

    async def _take(
        self, held: Sequence[Lease], claim: Callable[..., Awaitable[list[Claimed]]]
    ) -> list[Claimed]:
        # Each shard is kept until the last result of its claim is committed.
        acts = {lease.shard: ExitStack() for lease in held}
        try:
            for lease in held:
                acts[lease.shard].enter_context(self._leases.acting(lease))
            async with self._database.connection() as connection:
                claimed = await claim(
                    connection,
                    leases=held,
                    now=self._clock.now(),
                    claim_lease_s=self._settings.claim_lease_s,
                )
            for claim_id, shard, count in _claims_in(claimed):
                self._recorder.expect(claim_id, count, acts.pop(shard))
        finally:
            for act in acts.values():
                act.close()
        return claimed

    def _begin(self, chosen: dict[UUID, int], claimed: Sequence[Claimed]) -> None:
        assert self._group is not None, "step runs inside running"
        at = time.monotonic()
        rates = {row.webhook_id: row.rate_per_second for row in claimed}
        self.schedule.settle(chosen, Counter(row.webhook_id for row in claimed), at, rates)
        for row in claimed:
            exchange = self.schedule.begin(row.webhook_id, at)
            self._group.create_task(self._exchange(row, exchange))

    async def _exchange(self, claimed: Claimed, exchange: Exchange) -> None:
        attempt = await self._poster.attempt(claimed)
        starved = not self.schedule.free_slots
        self.schedule.end(exchange)
        self._recorder.put(Result(attempt, exchange))
        if starved:
            self._wake.set()

    def _committed(self, results: Sequence[Result]) -> None:
        at, now = time.monotonic(), self._clock.now()
        for result in results:
            success = None if result.attempt.ours else result.attempt.outcome is Outcome.DELIVERED
            closed_s = self._breakers.closed_for_s(result.attempt.claimed.webhook_id, now)
            if hold_s := max(self._hold_s(result.attempt), closed_s):
                self.schedule.hold(result.exchange, at, hold_s)
            self.schedule.commit(result.exchange, at, success=success)
            if success and result.attempt.claimed.probe:
                self.schedule.release(result.attempt.claimed.webhook_id)
        self._poster.metrics.breakers_open.set(self._breakers.open)
        # There is room again for those at their cap.
        if self.schedule.waits:
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
