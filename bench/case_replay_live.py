"""Live traffic beside a replay: from the commit of a live event to its arrival at a reader of the bus.

The limit is the same without the replay, in the same run. The replay is unthrottled and goes to the bus; dispatcher and
replay worker run in their loops, as `tollway work` runs them. The design allows 1.5 times.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import uuid4

from prometheus_client import CollectorRegistry
from tollway.customer.v1 import customer_events_pb2

from bench.case_dispatch import dispatch_all, fill
from bench.case_replay import is_finished, start
from bench.environment import Environment, Result
from billing.domain.ids import Prefix, encode
from billing.runtime.ids import new_id
from billing.services.actor import Cause
from billing.services.events import NewEvent, emit
from billing.services.leases import LeaseKind, shard_count
from workers.dispatcher.dispatcher import Dispatcher
from workers.dispatcher.settings import DispatcherSettings
from workers.ground import Ground
from workers.leases import LeaseKeeper, LeaseSettings
from workers.loop import run_loop
from workers.metrics import DispatcherMetrics
from workers.replay import ReplayWorker

REPLAYED: Final = 60_000
LIVE: Final = 400
LIVE_EVERY_S: Final = 0.01
RESOURCES: Final = 50
IDLE_S: Final = 0.25
PATIENCE_S: Final = 60.0


async def run(env: Environment) -> list[Result]:
    """p50 and p99 of live events, without a replay and while one runs."""
    shards = await shard_count(env.worker)
    await env.bus.ensure_streams(shards)
    replayed = int(REPLAYED * env.scale)
    await fill(env, replayed)
    await dispatch_all(env, shards, replayed)
    live = Live(env)
    async with live.reading(shards), _working(env, shards):
        alone = statistics.quantiles(await live.send(), n=100)
        await start(env, replayed)
        beside = statistics.quantiles(await live.send(), n=100)
        assert not await is_finished(env), "the replay ended before the live events"
    note = "the same without the replay; target 1.5"
    return [
        Result(f"replay: live p{percent}", beside[percent - 1], "ms", alone[percent - 1], note)
        for percent in (50, 99)
    ]


class Live:
    """Commits events one by one at a steady rate, and reads when each is on the bus."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._arrived: dict[str, float] = {}
        self._resources = [
            encode(Prefix.CUSTOMER, new_id(env.clock.now())) for _ in range(RESOURCES)
        ]

    @asynccontextmanager
    async def reading(self, partitions: int) -> AsyncIterator[None]:
        """Within it every partition is read, from its end on."""
        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(self._read(number)) for number in range(partitions)]
            yield
            for reader in readers:
                reader.cancel()

    async def _read(self, partition: int) -> None:
        end = (await self._env.bus.stream_state(partition)).last_seq
        async with self._env.bus.reader(partition, end) as reader:
            while True:
                batch = await reader.next_batch(1_000, 1.0)
                now = time.monotonic()
                for message in batch:
                    self._arrived.setdefault(message.bus_id, now)

    async def send(self) -> list[float]:
        """Milliseconds of each event from its commit to its arrival."""
        committed: dict[str, float] = {}
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(LIVE):
                await asyncio.sleep(max(0.0, begun + number * LIVE_EVERY_S - time.monotonic()))
                group.create_task(self._commit(number, committed))
        async with asyncio.timeout(PATIENCE_S):
            while not committed.keys() <= self._arrived.keys():  # noqa: ASYNC110 - many arrivals
                await asyncio.sleep(0.01)
        return [(self._arrived[event] - at) * 1_000 for event, at in committed.items()]

    async def _commit(self, number: int, committed: dict[str, float]) -> None:
        now, name = self._env.clock.now(), self._resources[number % RESOURCES]
        payload = customer_events_pb2.CustomerCreated(customer_id=name)
        cause = Cause("opr_bench", new_id(now))
        event = NewEvent(self._env.tenant.id, name, number + 1, payload, now, cause)
        async with self._env.worker.transaction() as tx:
            (event_id,) = await emit(tx, [event], now=now)
        committed[encode(Prefix.EVENT, event_id)] = time.monotonic()


@asynccontextmanager
async def _working(env: Environment, shards: int) -> AsyncIterator[None]:
    """A dispatcher of all shards and a replay worker, in their loops."""
    keeper = LeaseKeeper(env.worker, LeaseKind.DISPATCHER, uuid4(), LeaseSettings(), shards=shards)
    await keeper.step()
    ground, metrics = Ground(env.worker, env.bus, env.clock), DispatcherMetrics(CollectorRegistry())
    dispatcher = Dispatcher(ground, keeper, DispatcherSettings(), metrics)
    replaying = ReplayWorker(env.worker, env.clock, {})
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(dispatcher.run(stop))
        group.create_task(run_loop(replaying.step, stop, idle_s=IDLE_S))
        yield
        stop.set()
