"""What tests of the dispatcher and the router work with: a migrated database, a clean bus, and events to send.

Not a fake of anything: the database, the bus and the workers are the real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID, uuid4

import asyncpg
import nats
import pytest
from google.protobuf.message import Message
from nats.js.errors import NotFoundError
from prometheus_client import CollectorRegistry
from tollway.tenant.v1 import tenant_events_pb2

from billing.domain.ids import Prefix, encode
from billing.runtime.bus.base import Bus, BusSettings, Received
from billing.runtime.bus.connect import connect_bus
from billing.runtime.db import Connection, Database
from billing.runtime.ids import new_id
from billing.services.actor import Cause
from billing.services.consumer_starts import Starts
from billing.services.events import NewEvent, emit
from billing.services.incoming import Incoming
from billing.services.leases import LeaseKind
from billing.services.subjects import known_subjects
from tests.conftest import Databases
from workers.dispatcher.dispatcher import Dispatcher
from workers.dispatcher.settings import DispatcherSettings
from workers.ground import Ground
from workers.leases import LeaseKeeper, LeaseSettings
from workers.metrics import DispatcherMetrics, RouterMetrics
from workers.router.consumers import Consumer, Routes
from workers.router.router import Router
from workers.router.settings import RouterSettings

SHARDS = 2
PATIENCE_S = 20.0

# One stream limit for all tests: nothing is reserved that a test does not use.
BUS = BusSettings(request_timeout_s=20.0, stream_max_bytes=64 * 1024 * 1024)


@dataclass(slots=True)
class Backbone:
    """A house with two shards and nothing in it."""

    databases: Databases
    bus: Bus
    nats_url: str
    tenant: UUID
    versions: dict[str, int] = field(default_factory=dict)
    shards: int = SHARDS

    @property
    def ground(self) -> Ground:
        return Ground(self.databases.worker, self.bus, self.databases.clock)

    @property
    def now(self) -> datetime:
        return self.databases.clock.now()

    def resource(self) -> str:
        return encode(Prefix.SUBSCRIPTION, new_id(self.now))

    async def emit(
        self, resources: Sequence[str], payload: Message | None = None, schema_version: int = 1
    ) -> list[UUID]:
        """One event per entry, in one transaction, with the next version of its resource."""
        now = self.now
        events = []
        for resource in resources:
            version = self.versions[resource] = self.versions.get(resource, 0) + 1
            cause = Cause("worker:test", new_id(now))
            fact = payload or tenant_events_pb2.TenantCreated()
            events.append(NewEvent(self.tenant, resource, version, fact, now, cause))
        async with self.databases.worker.transaction() as tx:
            return await emit(tx, events, now=now)

    def keeper(self, kind: LeaseKind, database: Database | None = None) -> LeaseKeeper:
        return LeaseKeeper(
            database or self.databases.worker, kind, uuid4(), LeaseSettings(), shards=self.shards
        )

    async def dispatcher(
        self, settings: DispatcherSettings | None = None, bus: Bus | None = None
    ) -> tuple[Dispatcher, DispatcherMetrics, LeaseKeeper]:
        """A dispatcher that has taken its leases."""
        keeper = self.keeper(LeaseKind.DISPATCHER)
        await keeper.step()
        metrics = DispatcherMetrics(CollectorRegistry())
        ground = replace(self.ground, bus=bus or self.bus)
        return (
            Dispatcher(ground, keeper, settings or DispatcherSettings(), metrics),
            metrics,
            keeper,
        )

    async def dispatch(self) -> None:
        """Publishes everything, by a dispatcher of its own."""
        dispatcher, _, keeper = await self.dispatcher()
        while await dispatcher.step():
            pass
        await keeper.close()

    @asynccontextmanager
    async def router(
        self,
        consumers: Sequence[Consumer],
        settings: RouterSettings | None = None,
        *,
        known: Collection[str] | None = None,
        starts: Starts | None = None,
        database: Database | None = None,
    ) -> AsyncIterator[Routing]:
        """A router that has taken its leases and reads."""
        keeper = self.keeper(LeaseKind.ROUTER)
        await keeper.step()
        metrics = RouterMetrics(CollectorRegistry())
        subjects = known_subjects() if known is None else frozenset(known)
        routes = Routes(consumers, subjects, starts or {})
        ground = replace(self.ground, database=database or self.databases.worker)
        settings = settings or RouterSettings(retry_every_s=0)
        async with Router(ground, keeper, routes, settings, metrics) as router:
            yield Routing(router, metrics, keeper, router.subscribe())
        await keeper.close()

    async def expire_leases(self) -> None:
        """As if the holders had been dead for long."""
        await self.execute("UPDATE leases SET expires_at = '-infinity'")
        await self.execute("UPDATE lease_members SET expires_at = '-infinity'")

    async def execute(self, sql: str, *values: object) -> None:
        connection = await asyncpg.connect(self.databases.url)
        try:
            await connection.execute(sql, *values)
        finally:
            await connection.close()

    async def fetch(self, sql: str, *values: object) -> list[asyncpg.Record]:
        async with self.databases.worker.connection() as connection:
            return await connection.fetch(sql, *values)

    async def count(self, table: str) -> int:
        return int((await self.fetch(f"SELECT count(*) FROM {table}"))[0][0])

    async def on_bus(self) -> list[list[Received]]:
        """What each partition's stream holds, in order."""
        held = []
        for partition in range(self.shards):
            state = await self.bus.stream_state(partition)
            messages: list[Received] = []
            async with self.bus.reader(partition, 0) as reader:
                while len(messages) < state.last_seq - state.first_seq + 1:
                    messages += await reader.next_batch(1000, 1.0)
            held.append(messages)
        return held


@dataclass(frozen=True, slots=True)
class Routing:
    """A router at work."""

    router: Router
    metrics: RouterMetrics
    keeper: LeaseKeeper
    arrived: asyncio.Event

    async def until(self, reached: Callable[[], bool]) -> None:
        """Steps, waiting for arrivals in between, until something is true."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                self.arrived.clear()
                done = await self.router.step()
                if reached():
                    return
                if not done:
                    await self.arrived.wait()

    async def step_until(self, reached: Callable[[], bool]) -> None:
        """Steps without waiting for arrivals: for what is tried again."""
        async with asyncio.timeout(PATIENCE_S):
            while not reached():
                await self.router.step()
                await asyncio.sleep(0)


@dataclass(slots=True)
class Effects:
    """A consumer's effects: rows of a table, written in the router's transaction, and what it was given, in order."""

    name: str
    given: list[UUID] = field(default_factory=list)
    failing: set[UUID] = field(default_factory=set)
    waiting: set[UUID] = field(default_factory=set)
    once: list[Exception] = field(default_factory=list)

    async def handle(
        self, tx: Connection, events: Sequence[Incoming], now: datetime
    ) -> Collection[UUID]:
        await tx.executemany(
            "INSERT INTO effects (consumer, event_id) VALUES ($1, $2)",
            [(self.name, event.event_id) for event in events if event.event_id not in self.waiting],
        )
        if self.once:
            raise self.once.pop()
        for event in events:
            if event.event_id in self.failing:
                # A fault of the data that only the database finds: a key that is there already.
                await tx.execute("INSERT INTO effects VALUES ('poison', $1)", self.tenant_of(event))
        self.given += [event.event_id for event in events]
        return [event.event_id for event in events if event.event_id in self.waiting]

    @staticmethod
    def tenant_of(event: Incoming) -> UUID:
        return event.tenant_id

    def consumer(self, *subjects: str, ordered: bool = False) -> Consumer:
        return Consumer(self.name, frozenset(subjects) or None, self.handle, ordered)


async def wipe_streams(nats_url: str) -> None:
    """Deletes the tests' streams: the server is shared by all tests of a session."""
    client = await nats.connect(nats_url)
    try:
        for partition in range(SHARDS):
            try:
                await client.jetstream().delete_stream(f"TOLLWAY_EVENTS_{partition}")
            except NotFoundError:
                continue
    finally:
        await client.close()


@pytest.fixture
async def backbone(databases: Databases, nats_url: str) -> AsyncIterator[Backbone]:
    """An empty house with two shards, a clean bus, and a table for effects."""
    await wipe_streams(nats_url)
    bus = await connect_bus(nats_url, BUS)
    await bus.ensure_streams(SHARDS)
    house = Backbone(databases, bus, nats_url, new_id(databases.clock.now()))
    await house.execute(f"UPDATE topology SET shards = {SHARDS}")
    await house.execute(
        "CREATE TABLE effects (consumer text, event_id uuid, PRIMARY KEY (consumer, event_id));"
        "GRANT ALL ON effects TO tollway_worker;"
    )
    await house.execute("INSERT INTO effects VALUES ('poison', $1)", house.tenant)
    yield house
    await bus.close()
