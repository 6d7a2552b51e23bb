"""A dispatcher or a router as a process of its own, to be killed.

Usage: python -m tests.faults.backbone_process dispatcher|router DATABASE_URL NATS_URL
"""

from __future__ import annotations

import asyncio
import sys
from uuid import uuid4

from prometheus_client import CollectorRegistry

from billing.runtime.bus.connect import connect_bus
from billing.runtime.clock import DatabaseClock
from billing.runtime.db import DatabaseSettings, Role, connect, read_clock
from billing.services.leases import LeaseKind
from billing.services.subjects import known_subjects
from tests.backbone import BUS, SHARDS, Effects
from workers.dispatcher.dispatcher import Dispatcher
from workers.dispatcher.settings import DispatcherSettings
from workers.ground import Ground
from workers.leases import LeaseKeeper, LeaseSettings
from workers.metrics import DispatcherMetrics, RouterMetrics
from workers.router.consumers import Routes
from workers.router.router import Router
from workers.router.settings import RouterSettings


async def main(role: str, database_url: str, nats_url: str) -> None:
    """Works until it is killed."""
    database = await connect(database_url, Role.WORKER, DatabaseSettings())
    clock = DatabaseClock()
    await read_clock(database, clock)
    ground = Ground(database, await connect_bus(nats_url, BUS), clock)
    stop = asyncio.Event()
    if role == "dispatcher":
        keeper = LeaseKeeper(
            database, LeaseKind.DISPATCHER, uuid4(), LeaseSettings(), shards=SHARDS
        )
        small = DispatcherSettings(shared_rows_max=5, batch_rows_max=20)
        await Dispatcher(ground, keeper, small, DispatcherMetrics(CollectorRegistry())).run(stop)
    else:
        keeper = LeaseKeeper(database, LeaseKind.ROUTER, uuid4(), LeaseSettings(), shards=SHARDS)
        routes = Routes(
            [Effects("first").consumer(), Effects("second").consumer()], known_subjects()
        )
        small_cycles = RouterSettings(cycle_events_max=20, shared_events_max=20)
        metrics = RouterMetrics(CollectorRegistry())
        await Router(ground, keeper, routes, small_cycles, metrics).run(stop)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
