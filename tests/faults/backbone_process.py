"""A dispatcher or a router as a process of its own, to be killed.

Usage: python -m tests.faults.backbone_process OPTIONS, a JSON object of the fields of `Options`. It ends when its
standard input closes, which the kernel does whatever becomes of the test.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from prometheus_client import CollectorRegistry

from billing.domain.backoff import ExponentialBackoff
from billing.runtime.bus.connect import connect_bus
from billing.runtime.clock import DatabaseClock
from billing.runtime.db import Connection, DatabaseSettings, Role, connect, read_clock
from billing.services import event_feed
from billing.services.incoming import Incoming
from billing.services.leases import LeaseKind
from billing.services.subjects import known_subjects
from tests.backbone import BUS, SHARDS, Effects
from workers.dispatcher.dispatcher import Dispatcher
from workers.dispatcher.settings import DispatcherSettings
from workers.ground import Ground
from workers.leases import LeaseKeeper, LeaseSettings
from workers.metrics import DispatcherMetrics, RouterMetrics
from workers.router.consumers import Consumer, Routes
from workers.router.router import Router
from workers.router.settings import RouterSettings

# The subjects that the ordered consumer `second` wants. A release before NEW_SUBJECT does not know it.
OLD_SUBJECT = "tenant.created"
NEW_SUBJECT = "subscription.created"
CONSUMERS: dict[str, Collection[str] | None] = {
    "first": None,
    "second": {OLD_SUBJECT, NEW_SUBJECT},
    "feed": None,
}

LEASES = LeaseSettings(lease_s=4.0, renew_every_s=0.5, act_margin_s=2.0)
DISPATCHER = DispatcherSettings(
    shared_rows_max=5,
    batch_rows_max=20,
    refused_backoff=ExponentialBackoff(base_ms=10, cap_ms=100),
    outage_backoff=ExponentialBackoff(base_ms=10, cap_ms=200),
    attempts_max=3,
)
ROUTER = RouterSettings(
    cycle_events_max=20,
    shared_events_max=20,
    failed_backoff=ExponentialBackoff(base_ms=10, cap_ms=100),
    reopen_backoff=ExponentialBackoff(base_ms=10, cap_ms=200),
    unknown_wait=timedelta(milliseconds=100),
    retry_every_s=0.05,
)


@dataclass(frozen=True, slots=True)
class Options:
    """`role` is dispatcher or router; `old` does not know NEW_SUBJECT; every so many-th batch of effects fails."""

    role: str
    database_url: str
    nats_url: str
    holder: str
    old: bool = False
    fails_every: int = 0


class Failing(Effects):
    """Effects of which every so many-th call fails after it has written."""

    calls = 0
    fails_every = 0

    async def handle(
        self, tx: Connection, events: Sequence[Incoming], now: datetime
    ) -> Collection[UUID]:
        waiting = await super().handle(tx, events, now)
        self.calls += 1
        if self.fails_every and self.calls % self.fails_every == 0:
            raise RuntimeError("a handler fails now and then")
        return waiting


def routes_of(options: Options) -> Routes:
    """The two consumers of effects, the second one ordered, and the feed."""
    first, second = Failing("first"), Failing("second")
    first.fails_every = second.fails_every = options.fails_every
    unknown = {NEW_SUBJECT} if options.old else set()
    wanted = set(CONSUMERS["second"] or ()) - unknown
    consumers = [
        first.consumer(),
        second.consumer(*wanted, ordered=True),
        Consumer("feed", None, event_feed.append),
    ]
    return Routes(consumers, known_subjects() - unknown)


async def main(options: Options) -> None:
    """Works until it is killed."""
    leaving = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    leaving.add_done_callback(lambda _: os._exit(0))
    database = await connect(options.database_url, Role.WORKER, DatabaseSettings())
    clock = DatabaseClock()
    await read_clock(database, clock)
    ground = Ground(database, await connect_bus(options.nats_url, BUS), clock)
    kind = LeaseKind.DISPATCHER if options.role == "dispatcher" else LeaseKind.ROUTER
    keeper = LeaseKeeper(database, kind, UUID(options.holder), LEASES, shards=SHARDS)
    stop, registry = asyncio.Event(), CollectorRegistry()
    if options.role == "dispatcher":
        await Dispatcher(ground, keeper, DISPATCHER, DispatcherMetrics(registry)).run(stop)
    else:
        router = Router(ground, keeper, routes_of(options), ROUTER, RouterMetrics(registry))
        await router.run(stop)


if __name__ == "__main__":
    asyncio.run(main(Options(**json.loads(sys.argv[1]))))
