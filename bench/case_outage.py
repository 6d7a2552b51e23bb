"""Outage: the bus is killed under load; how soon the dispatcher publishes again, and what the backlog costs.

Invariant: the time counts from the moment at which the server answers again, and the dispatcher runs as in the house,
woken by nothing but its own reconnect and its backoff.
"""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

from prometheus_client import CollectorRegistry

from bench.case_dispatch import fill
from bench.environment import Environment, Result
from billing.runtime.embedded.servers import Server
from billing.services.leases import LeaseKind, shard_count
from workers.dispatcher.dispatcher import Dispatcher
from workers.dispatcher.settings import DispatcherSettings
from workers.ground import Ground
from workers.leases import LeaseKeeper, LeaseSettings
from workers.metrics import DispatcherMetrics

BEFORE = 2_000
BACKLOG = 20_000
OUTAGE_S = 5.0
PATIENCE_S = 60.0
LOOK_S = 0.002


async def run(env: Environment) -> list[Result]:
    """Milliseconds to the first event published after the outage, and to the last of the backlog."""
    shards = await shard_count(env.worker)
    await env.bus.ensure_streams(shards)
    keeper = LeaseKeeper(env.worker, LeaseKind.DISPATCHER, uuid4(), LeaseSettings(), shards=shards)
    metrics = DispatcherMetrics(CollectorRegistry())
    ground = Ground(env.worker, env.bus, env.clock)
    dispatcher = Dispatcher(ground, keeper, DispatcherSettings(), metrics)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE_S):
        group.create_task(dispatcher.run(stop))
        await fill(env, BEFORE)
        await _until_left(env, 0)
        async with env.servers.down(Server.NATS, kill=True):
            await fill(env, BACKLOG)
            await asyncio.sleep(OUTAGE_S)
        began = time.perf_counter()
        await _until_left(env, BACKLOG - 1)
        first = time.perf_counter() - began
        await _until_left(env, 0)
        last = time.perf_counter() - began
        stop.set()
    return [
        Result("outage, first event", first * 1_000, "ms", note="since the bus answers again"),
        Result("outage, backlog", last * 1_000, "ms", note=f"{BACKLOG:,} events waited"),
    ]


async def _until_left(env: Environment, most: int) -> None:
    """Waits until at most so many publications are still to be made."""
    async with env.worker.connection() as connection:
        left = "SELECT count(*) FROM outbox"
        while await connection.fetchval(left) > most:  # noqa: ASYNC110 - only the database can tell
            await asyncio.sleep(LOOK_S)
