"""Dispatch: from pending in the outbox to acknowledged by the bus, every acknowledgement after an fsync.

The limit is the same number of the same messages, made beforehand and published from memory in atomic batches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

from prometheus_client import CollectorRegistry
from tollway.usage.v1 import usage_events_pb2

from bench.environment import Environment, Result
from billing.domain.ids import Prefix, encode
from billing.runtime.bus.base import BATCH_MAX_MESSAGES, BusMessage
from billing.runtime.ids import new_id
from billing.services import outbox
from billing.services.actor import Cause
from billing.services.events import NewEvent, emit
from billing.services.leases import LeaseKind, shard_count
from billing.services.outbox import Claim, Priority
from workers.dispatcher.dispatcher import Dispatcher
from workers.dispatcher.messages import message_of
from workers.dispatcher.settings import DispatcherSettings
from workers.ground import Ground
from workers.leases import LeaseKeeper, LeaseSettings
from workers.metrics import DispatcherMetrics

EVENTS = 100_000
RESOURCES = 5_000
PER_TRANSACTION = 1_000
PATIENCE_S = 60.0


async def run(env: Environment) -> list[Result]:
    """Fills the outbox, publishes copies of its head from memory, then dispatches all of it."""
    shards = await shard_count(env.worker)
    await env.bus.ensure_streams(shards)
    await fill(env, EVENTS)
    limit = await _from_memory(env, shards)
    figure = await dispatch_all(env, shards)
    note = "the same messages published from memory in atomic batches"
    return [Result("dispatch", figure, "events/s", limit, note)]


async def fill(env: Environment, count: int) -> None:
    """Commits so many events about usage batches of many resources."""
    now = env.clock.now()
    batches = [encode(Prefix.USAGE_BATCH, new_id(now)) for _ in range(RESOURCES)]
    for start in range(0, count, PER_TRANSACTION):
        now = env.clock.now()
        events = [
            _event(env.tenant.id, batches[number % RESOURCES], number, env)
            for number in range(start, start + PER_TRANSACTION)
        ]
        async with env.worker.transaction() as tx:
            await emit(tx, events, now=now)


def _event(tenant: UUID, batch: str, version: int, env: Environment) -> NewEvent:
    now = env.clock.now()
    payload = usage_events_pb2.UsageReported(batch_id=batch)
    cause = Cause("key_01h455vb4pex5vsknk084sn02q", new_id(now))
    return NewEvent(tenant, batch, version, payload, now, cause)


async def dispatch_all(env: Environment, shards: int, count: int = EVENTS) -> float:
    """Events per second of a dispatcher that owns all shards, until it has published so many."""
    keeper = LeaseKeeper(env.worker, LeaseKind.DISPATCHER, uuid4(), LeaseSettings(), shards=shards)
    await keeper.step()
    settings, metrics = DispatcherSettings(), DispatcherMetrics(CollectorRegistry())
    dispatcher = Dispatcher(Ground(env.worker, env.bus, env.clock), keeper, settings, metrics)
    published = 0

    async def lane() -> None:
        nonlocal published
        while published < count:
            # In two lines: another lane counts while this one waits.
            done = await dispatcher.step()
            published += done
            await asyncio.sleep(0)

    async def renew() -> None:
        while published < count:
            await asyncio.sleep(keeper.settings.renew_every_s)
            await keeper.step()

    renewing = asyncio.create_task(renew())
    began = time.perf_counter()
    async with asyncio.timeout(PATIENCE_S):
        await _together([lane for _ in range(settings.lanes)])
    seconds = time.perf_counter() - began
    renewing.cancel()
    await keeper.close()
    return published / seconds


async def _from_memory(env: Environment, shards: int) -> float:
    batches: list[list[BusMessage]] = []
    for shard in range(shards):
        rows = await outbox.read_pending(
            env.worker,
            [Claim(shard, Priority.LIVE, EVENTS, EVENTS)],
            in_flight=[],
            now=env.clock.now(),
        )
        for start in range(0, len(rows), BATCH_MAX_MESSAGES):
            part = rows[start : start + BATCH_MAX_MESSAGES]
            loaded = await outbox.load_envelopes(env.worker, part, bytes_max=2**30)
            batches.append(
                [
                    # Under another id, so that the events themselves are no duplicates afterwards.
                    _renamed(message_of(p.row, p.occurred_at, p.envelope))
                    for p in loaded
                    if p.occurred_at is not None and p.envelope is not None
                ]
            )
    # The streams in turn, as the dispatcher takes them.
    batches.sort(key=lambda batch: (-len(batch), batch[0].bus_id))
    count = sum(map(len, batches))

    async def lane() -> None:
        while batches:
            batch = batches.pop()
            await env.bus.publish_batch(batch[0].partition, batch)

    began = time.perf_counter()
    async with asyncio.timeout(PATIENCE_S):
        await _together([lane for _ in range(DispatcherSettings().lanes)])
    return count / (time.perf_counter() - began)


def _renamed(message: BusMessage) -> BusMessage:
    return message._replace(bus_id=f"{message.bus_id}:m")


async def _together(lanes: list[Callable[[], Awaitable[None]]]) -> None:
    await asyncio.gather(*[lane() for lane in lanes])
