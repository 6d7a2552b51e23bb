"""The composition root of the workers: each role's worker, and the loop that it runs in.

Invariant: every task has this process's stop as its end; a role that fails for good ends the process with it, so that
nobody believes in a worker that is not there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from typing import Final
from uuid import UUID

from billing.runtime.bus.base import BusUnavailable
from billing.runtime.db import Database, DatabaseSettings, Role, connect
from billing.runtime.hints import CLOCKS, DELIVERIES
from billing.runtime.ids import new_id
from billing.runtime.settings import Settings
from billing.services import consumer_starts
from billing.services.consumer_starts import Starts
from billing.services.consumers import WANTED
from billing.services.leases import LeaseKind, shard_count
from billing.services.rating import RatingSettings
from billing.services.subjects import known_subjects
from billing.services.webhooks import SENDER_SHARDS
from cli.compose import Parts, stopped_within
from workers.clock import ClockSettings, ClockWorker
from workers.dispatcher.dispatcher import Dispatcher
from workers.dispatcher.settings import DispatcherSettings
from workers.ground import Ground
from workers.healing import Healer, HealingSettings
from workers.lag import LAG_EVERY_S, LagWatcher
from workers.leases import LeaseKeeper, LeaseSettings
from workers.loop import run_loop
from workers.metrics import (
    DispatcherMetrics,
    LagMetrics,
    LoopMetrics,
    RouterMetrics,
    SchedulerMetrics,
    SenderMetrics,
    SweeperMetrics,
)
from workers.rating import RatingWorker
from workers.replay import ReplayWorker
from workers.retention import Retention, RetentionSettings
from workers.router.consumers import Routes, house_consumers
from workers.router.router import Router
from workers.router.settings import RouterSettings
from workers.scheduler import Scheduler, SchedulerSettings
from workers.sweeper import Sweeper, SweeperSettings
from workers.webhooks.client import WebhookClient
from workers.webhooks.guard import Guard
from workers.webhooks.poster import Poster
from workers.webhooks.recoveries import RecoveryWorker
from workers.webhooks.sender import Sender
from workers.webhooks.settings import SenderSettings

log = logging.getLogger(__name__)

BUS_RETRY_S: Final = 1.0
IDLE_S: Final = 0.25
CLOCK_POLL_S: Final = 0.02  # an advancing clock is somebody waiting
SWEEP_IDLE_S: Final = 60.0
RETENTION_IDLE_S: Final = 3600.0
OWNER_LOCK_WAIT_S: Final = 1.0
HEAL_IDLE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Shop:
    """What the workers of one process share: their parts, their name, the shard count, and the end."""

    parts: Parts
    holder: UUID
    shards: int
    stop: asyncio.Event
    failures: LoopMetrics

    @property
    def ground(self) -> Ground:
        """What every worker of the backbone stands on."""
        return Ground(self.parts.worker, self.parts.bus, self.parts.clock)

    def keeper(self, kind: LeaseKind, shards: int) -> LeaseKeeper:
        """The leases of one kind that this process holds."""
        return LeaseKeeper(self.parts.worker, kind, self.holder, LeaseSettings(), shards=shards)

    def loop(
        self, role: str, step: Callable[[], Awaitable[int]], idle_s: float = IDLE_S
    ) -> Awaitable[None]:
        """The loop of a role's step."""
        return run_loop(step, self.stop, idle_s=idle_s, on_failure=self.on_failure(role))

    def on_failure(self, role: str) -> Callable[[], None]:
        """Counts the steps of a role that raised."""
        counter = self.failures.failures.labels(role)
        return counter.inc


Work = Callable[[Shop], Awaitable[None]]


async def run_workers(
    parts: Parts, roles: Collection[str], stop: asyncio.Event, ready: Callable[[], None]
) -> None:
    """Runs the workers of `roles` until the stop. Tells `ready` once their streams and shards are known."""
    shards = await shard_count(parts.worker)
    await _ensure_streams(parts, shards, stop)
    for warning in await parts.bus.durability_warnings() if parts.bus.connected else ():
        log.warning("%s", warning)
    shop = Shop(parts, new_id(parts.clock.now()), shards, stop, LoopMetrics(parts.registry))
    async with asyncio.TaskGroup() as group:
        for name in roles:
            group.create_task(_awaited(ROLES[name](shop)), name=name)
        ready()


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def _ensure_streams(parts: Parts, shards: int, stop: asyncio.Event) -> None:
    """Makes the bus's streams, however long the bus is away."""
    while not stop.is_set():
        try:
            await parts.bus.ensure_streams(shards)
        except BusUnavailable as error:
            log.warning("the bus is not there yet: %s", error)
            await stopped_within(stop, BUS_RETRY_S)
        else:
            return


def _dispatcher(shop: Shop) -> Awaitable[None]:
    keeper = shop.keeper(LeaseKind.DISPATCHER, shop.shards)
    metrics = DispatcherMetrics(shop.parts.registry)
    dispatcher = Dispatcher(shop.ground, keeper, DispatcherSettings(), metrics)
    return dispatcher.run(shop.stop, on_failure=shop.on_failure("dispatcher"))


async def _router(shop: Shop) -> None:
    grace = timedelta(seconds=shop.parts.settings.invoice_grace_s)
    consumers = house_consumers(invoice_grace=grace)
    starts = await _register(shop, [consumer.name for consumer in consumers])
    routes = Routes(consumers, known_subjects(), starts)
    keeper = shop.keeper(LeaseKind.ROUTER, shop.shards)
    router = Router(
        shop.ground, keeper, routes, RouterSettings(), RouterMetrics(shop.parts.registry)
    )
    await router.run(shop.stop, on_failure=shop.on_failure("router"))


async def _register(shop: Shop, names: Collection[str]) -> Starts:
    return await consumer_starts.register(shop.parts.worker, names, now=shop.parts.clock.now())


async def _webhooks(shop: Shop) -> None:
    parts, settings = shop.parts, SenderSettings()
    keeper = shop.keeper(LeaseKind.SENDER, SENDER_SHARDS)
    client = WebhookClient(
        settings, Guard(parts.settings.allowed_networks), user_agent=f"tollway/{version('tollway')}"
    )
    wake = parts.bus.subscribe_hints(DELIVERIES)
    poster = Poster(client, parts.vault, parts.clock, SenderMetrics(parts.registry))
    recoveries = RecoveryWorker(parts.worker, parts.clock)
    sender = Sender(parts.worker, keeper, poster, parts.clock, wake, settings)
    async with asyncio.TaskGroup() as group:
        group.create_task(
            _awaited(shop.loop("webhooks", keeper.step, keeper.settings.renew_every_s))
        )
        group.create_task(_awaited(shop.loop("webhooks", recoveries.step)))
        async with sender.running():
            await run_loop(
                sender.step,
                shop.stop,
                idle_s=IDLE_S,
                wake=wake,
                on_failure=shop.on_failure("webhooks"),
                at_once=False,
            )
    await keeper.close()


def _rating(shop: Shop) -> Awaitable[None]:
    settings = RatingSettings(interval_s=shop.parts.settings.rating_interval_s)
    return shop.loop("rating", RatingWorker(shop.parts.worker, shop.parts.clock, settings).step)


def _scheduler(shop: Shop) -> Awaitable[None]:
    return shop.loop(
        "scheduler",
        Scheduler(
            shop.parts.worker,
            shop.parts.clock,
            SchedulerSettings(),
            SchedulerMetrics(shop.parts.registry),
        ).step,
    )


async def _clock(shop: Shop) -> None:
    worker = ClockWorker(shop.parts.worker, shop.parts.clock, WANTED, ClockSettings())
    wake = shop.parts.bus.subscribe_hints(CLOCKS)

    async def step() -> int:
        done = await worker.step()
        if not done and worker.advancing:
            asyncio.get_running_loop().call_later(CLOCK_POLL_S, wake.set)
        return done

    on_failure = shop.on_failure("clock")
    await run_loop(step, shop.stop, idle_s=IDLE_S, wake=wake, on_failure=on_failure)


def _replay(shop: Shop) -> Awaitable[None]:
    # Where nothing is routed there is no consumer to wait for.
    wanted = WANTED if shop.parts.bus.heals else {}
    return shop.loop("replay", ReplayWorker(shop.parts.worker, shop.parts.clock, wanted).step)


async def _sweeper(shop: Shop) -> None:
    metrics = SweeperMetrics(shop.parts.registry)
    await _register(shop, WANTED)
    settings = shop.parts.settings
    kept = timedelta(hours=settings.bus_retention_hours)
    sweeper = Sweeper(shop.ground, SweeperSettings(bus_retention=kept), metrics)
    wanted = WANTED if shop.parts.bus.heals else {}
    healer = Healer(shop.ground, wanted, HealingSettings(), metrics)
    watcher = LagWatcher(shop.ground, WANTED, LagMetrics(shop.parts.registry))
    async with _owner(shop.parts) as owner, asyncio.TaskGroup() as group:
        retention = Retention(shop.ground, owner, _retention(settings), metrics)
        group.create_task(_awaited(shop.loop("retention", retention.step, RETENTION_IDLE_S)))
        group.create_task(_awaited(shop.loop("lag", watcher.step, LAG_EVERY_S)))
        group.create_task(_awaited(shop.loop("sweeper", sweeper.step, SWEEP_IDLE_S)))
        group.create_task(_awaited(shop.loop("healer", healer.step, HEAL_IDLE_S)))


def _retention(settings: Settings) -> RetentionSettings:
    return RetentionSettings(
        timedelta(days=settings.log_retention_days), timedelta(days=settings.inbox_retention_days)
    )


@asynccontextmanager
async def _owner(parts: Parts) -> AsyncIterator[Database]:
    """The owner's own session, which waits for no lock for long: live traffic would queue behind it."""
    limits = DatabaseSettings(connections_max=1, lock_timeout_s=OWNER_LOCK_WAIT_S)
    owner = await connect(parts.settings.database_url, Role.OWNER, limits)
    try:
        yield owner
    finally:
        await owner.close()


ROLES: Final[Mapping[str, Work]] = {
    "dispatcher": _dispatcher,
    "router": _router,
    "rating": _rating,
    "webhooks": _webhooks,
    "scheduler": _scheduler,
    "clock": _clock,
    "replay": _replay,
    "sweeper": _sweeper,
}
