"""Replay: a stretch of the log from the start to the bus's last acknowledgement, unthrottled, behind no live traffic.

The limit is the first dispatch of the same events in the same run.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Final
from uuid import uuid4

from prometheus_client import CollectorRegistry

from bench.case_dispatch import dispatch_all, fill
from bench.environment import Environment, Result
from billing.domain.replay import Target, TargetKind
from billing.runtime.ids import new_id
from billing.services.actor import Cause
from billing.services.leases import LeaseKind, shard_count
from billing.services.replay_filter import FilterDraft
from billing.services.replay_plan import PlanDraft, plan_replay
from billing.services.replay_token import Confirmations
from billing.services.replays import StartOrder, start_replay
from workers.dispatcher.dispatcher import Dispatcher
from workers.dispatcher.settings import DispatcherSettings
from workers.ground import Ground
from workers.leases import LeaseKeeper, LeaseSettings
from workers.metrics import DispatcherMetrics
from workers.replay import ReplayWorker

EVENTS: Final = 50_000
PATIENCE_S: Final = 45.0
ACTOR: Final = "key_01h455vb4pex5vsknk084sn02q"


async def run(env: Environment) -> list[Result]:
    """Dispatches a log for the first time, then replays all of it."""
    events = int(EVENTS * env.scale)
    shards = await shard_count(env.worker)
    await env.bus.ensure_streams(shards)
    await fill(env, events)
    limit = await dispatch_all(env, shards, events)
    figure = await _replay(env, shards, events)
    note = "the first dispatch of the same events"
    return [Result("replay", figure, "events/s", limit, note)]


async def _replay(env: Environment, shards: int, events: int) -> float:
    keeper = LeaseKeeper(env.worker, LeaseKind.DISPATCHER, uuid4(), LeaseSettings(), shards=shards)
    await keeper.step()
    ground = Ground(env.worker, env.bus, env.clock)
    settings, metrics = DispatcherSettings(), DispatcherMetrics(CollectorRegistry())
    dispatcher = Dispatcher(ground, keeper, settings, metrics)
    # Nothing is routed here, so the replay ends when everything is on the bus.
    worker = ReplayWorker(env.worker, env.clock, {})
    await start(env, events)
    done = asyncio.Event()

    async def dispatch() -> None:
        while not done.is_set():
            await dispatcher.step()
            await asyncio.sleep(0)

    async def arm() -> None:
        while not await is_finished(env):
            if not await worker.step():
                await asyncio.sleep(0.001)
        done.set()

    async def renew() -> None:
        while not done.is_set():
            await asyncio.sleep(keeper.settings.renew_every_s)
            await keeper.step()

    renewing = asyncio.create_task(renew())
    began = time.perf_counter()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(arm(), *(dispatch() for _ in range(settings.lanes)))
    seconds = time.perf_counter() - began
    renewing.cancel()
    await keeper.close()
    return events / seconds


async def start(env: Environment, events: int) -> None:
    """Plans and starts a replay of so many events to the bus."""
    now = env.clock.now()
    draft = PlanDraft(
        FilterDraft(env.tenant.id, ("usage.reported",)),
        [Target(TargetKind.BUS)],
        max_events=events,
    )
    # A little ahead, so that the youngest events are in the range too.
    async with env.worker.transaction(snapshot=True) as tx:
        planned = await plan_replay(tx, draft, {}, now=now + timedelta(seconds=5))
    assert planned.plan.matched == events
    confirmations = Confirmations(bytes(32))
    token, _ = confirmations.give(planned.plan, ACTOR, now=now)
    order = StartOrder(Cause(ACTOR, new_id(now)), "bench")
    async with env.worker.transaction() as tx:
        await start_replay(tx, confirmations.read(token), order, now=now)


async def is_finished(env: Environment) -> bool:
    """Whether the replay is."""
    async with env.worker.connection() as connection:
        status = await connection.fetchval("SELECT status FROM replays")
    return bool(status == "finished")
