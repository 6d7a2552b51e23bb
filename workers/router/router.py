"""Router, steps 1 to 4: owned partitions' events, in cycles, into the consumers; and again what waits.

Invariant: a partition is in at most one cycle at a time, its position moves only with the effects of what was read, and
what a lost process had read is read again by the next owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from billing.services import event_feed
from billing.services.leases import Lease
from billing.services.routing import Advance
from workers.ground import Ground
from workers.leases import LeaseKeeper
from workers.loop import run_loop
from workers.metrics import RouterMetrics
from workers.router.arrivals import Arrival, read_arrivals
from workers.router.consumers import Routes
from workers.router.cycle import Cycle, CycleRunner, Done
from workers.router.parking import Parking
from workers.router.partition import Partition, Puller
from workers.router.settings import RouterSettings


class Router:
    """Routes the partitions that `keeper` holds. Used as a context manager: inside, the partitions are being read.

    `step` does one cycle, and the retries when it is their time; `run` does all, with several cycles at once.
    """

    def __init__(
        self,
        ground: Ground,
        keeper: LeaseKeeper,
        routes: Routes,
        settings: RouterSettings,
        metrics: RouterMetrics,
    ) -> None:
        self._clock, self._bus, self._keeper = ground.clock, ground.bus, keeper
        self._settings, self._metrics = settings, metrics
        self._routes = routes
        self._cycles = CycleRunner(ground.database, routes, settings)
        self._parking = Parking(ground.database, routes, settings)
        self._puller = Puller(ground, settings, metrics, self._wake)
        self._wakes: list[asyncio.Event] = []
        self._partitions: dict[int, Partition] = {}
        self._pulls: dict[int, asyncio.Task[None]] = {}
        self._group = asyncio.TaskGroup()
        self._sharing = False
        self._retried_at = float("-inf")

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._own(self._keeper.usable())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pull in self._pulls.values():
            pull.cancel()
        await self._group.__aexit__(kind, error, trace)

    async def run(
        self, stop: asyncio.Event, *, on_failure: Callable[[], None] | None = None
    ) -> None:
        """Keeps the leases and routes until `stop`; then finishes what is under way and gives the leases up."""
        async with self, asyncio.TaskGroup() as group:
            keep = run_loop(
                self._keep,
                stop,
                idle_s=self._keeper.settings.renew_every_s,
                on_failure=on_failure,
            )
            group.create_task(keep)
            for _ in range(self._settings.lanes):
                lane = run_loop(
                    self.step,
                    stop,
                    idle_s=self._settings.idle_s,
                    wake=self.subscribe(),
                    on_failure=on_failure,
                )
                group.create_task(lane)
        await self._keeper.close()

    def subscribe(self) -> asyncio.Event:
        """An event that is set whenever something has arrived; the waiter clears it."""
        event = asyncio.Event()
        self._wakes.append(event)
        return event

    async def step(self) -> int:
        """One cycle of what has arrived, and what waits when it is time; how many events were dealt with."""
        self._own(self._keeper.usable())
        routed = await self._route(self._next_turn())
        return routed + await self._retry()

    # --- partitions

    async def _keep(self) -> int:
        taken = await self._keeper.step()
        self._own(self._keeper.usable())
        return taken

    def _own(self, leases: Sequence[Lease]) -> None:
        """Brings the partitions that are read in line with the leases that are held now."""
        held = {lease.shard: lease for lease in leases}
        for number, partition in list(self._partitions.items()):
            if held.get(number) != partition.lease:
                del self._partitions[number]
                self._pulls.pop(number).cancel()
        for number, lease in held.items():
            if number not in self._partitions:
                partition = self._partitions[number] = Partition(lease)
                self._pulls[number] = self._group.create_task(self._puller.pull(partition))
        self._metrics.partitions_owned.set(len(self._partitions))

    def _wake(self) -> None:
        for wake in self._wakes:
            wake.set()

    def _free(self) -> list[Partition]:
        return [p for p in self._partitions.values() if not p.lock.locked()]

    def _next_turn(self) -> list[Partition]:
        """A partition with much waiting has a cycle alone, the others share one; the longest unserved goes first.

        While a shared cycle is under way, a few events wait for its end and then share the next.
        """
        waiting = [p for p in self._free() if p.is_open and p.pulled]
        waiting = [p for p in waiting if self._keeper.may_act(p.lease)]
        self._metrics.pulled.set(sum(len(p.pulled) for p in self._partitions.values()))
        if not waiting:
            return []
        waiting.sort(key=lambda p: p.served_at)
        if self._alone(waiting[0]):
            return waiting[:1]
        turn, events = [], 0
        for partition in waiting:
            if not self._alone(partition) and events < self._settings.shared_events_max:
                turn.append(partition)
                events += len(partition.pulled)
        if self._sharing and events < self._settings.shared_events_min:
            return next(([p] for p in waiting if self._alone(p)), [])
        return turn

    def _alone(self, partition: Partition) -> bool:
        deep = len(partition.pulled) >= self._settings.cycle_events_max
        return deep or partition.slow_until > partition.sequence

    # --- a cycle

    async def _route(self, turn: Sequence[Partition]) -> int:
        async with contextlib.AsyncExitStack() as stack:
            for partition in turn:
                await stack.enter_async_context(partition.lock)
                stack.enter_context(self._keeper.acting(partition.lease))
                partition.served_at = time.monotonic()
            # A partition may have been opened anew while we waited for its lock.
            turn = [partition for partition in turn if partition.pulled]
            if not turn:
                return 0
            stack.enter_context(self._shared(turn))
            cycle, counts = self._take(turn)
            done = await self._cycles.run(cycle)
            self._finish(turn, counts, cycle, done)
            self._hint(cycle, done)
        return sum(advance.events for advance in cycle.advances)

    @contextlib.contextmanager
    def _shared(self, turn: Sequence[Partition]) -> Iterator[None]:
        shared = not self._alone(turn[0]) and not self._sharing
        self._sharing |= shared
        try:
            yield
        finally:
            self._sharing &= not shared

    def _take(self, turn: Sequence[Partition]) -> tuple[Cycle, list[int]]:
        """The cycle of what has been pulled, and how many messages of each partition are in it."""
        advances: list[Advance] = []
        arrivals: list[Arrival] = []
        counts: list[int] = []
        for partition in turn:
            one_by_one = partition.slow_until > partition.sequence
            messages = partition.pulled[: 1 if one_by_one else self._settings.cycle_events_max]
            arrived, unreadable = read_arrivals(messages, partition.lease.shard, self._routes)
            self._metrics.unreadable.inc(unreadable)
            last = messages[-1].sequence
            advances.append(
                Advance(
                    partition.lease, partition.identity, partition.sequence, last, len(messages)
                )
            )
            arrivals += arrived
            counts.append(len(messages))
        return Cycle(advances, arrivals, self._clock.now()), counts

    def _finish(
        self, turn: Sequence[Partition], counts: Sequence[int], cycle: Cycle, done: Done
    ) -> None:
        metrics = self._metrics
        for fault, times in done.faults.items():
            metrics.cycles_repeated.labels(fault.value).inc(times)
        for consumer, events in done.parked.items():
            metrics.parked.labels(consumer).inc(events)
        for consumer, events in done.repeated.items():
            metrics.repeated.labels(consumer).inc(events)
        for partition, count, advance in zip(turn, counts, cycle.advances, strict=True):
            if done.slow:
                partition.slow_until = advance.last_sequence
            elif partition.lease.shard in done.partitions:
                partition.drop(count, advance.last_sequence, self._settings)
                metrics.routed.inc(count)
            else:
                # Somebody else moved the position, or our own commit went through without an answer: read anew.
                metrics.lost_guards.inc()
                partition.shut()

    def _hint(self, cycle: Cycle, done: Done) -> None:
        """Wakes those who watch the feeds that have grown."""
        arrived = [arrival.incoming for arrival in cycle.arrivals]
        for tenant_id in {e.tenant_id for e in arrived if e.partition in done.partitions}:
            self._bus.hint(event_feed.hint_topic(tenant_id))

    # --- what waits

    async def _retry(self) -> int:
        """Tries what is due, every so often, in the partitions that are in no cycle just now."""
        now = time.monotonic()
        if now - self._retried_at < self._settings.retry_every_s:
            return 0
        free = [p for p in self._free() if self._keeper.may_act(p.lease)]
        if not free:
            return 0
        self._retried_at = now
        async with contextlib.AsyncExitStack() as stack:
            for partition in free:
                await stack.enter_async_context(partition.lock)
                stack.enter_context(self._keeper.acting(partition.lease))
            retried = await self._parking.retry([p.lease for p in free], self._clock.now())
        if retried.full and retried.progress:
            self._retried_at = float("-inf")
        for counter, counts in (
            (self._metrics.retried, retried.handled),
            (self._metrics.dead_letters, retried.dead),
            (self._metrics.parked, retried.parked),
        ):
            for consumer, events in counts.items():
                counter.labels(consumer).inc(events)
        return retried.progress
