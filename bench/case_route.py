"""Route: from the bus into three consumers' inboxes, the feed, an hourly bucket and a delivery row, committed.

The limit is the same statements, in transactions of the same size, from arrays made beforehand: no bus, no parsing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID, uuid4

import asyncpg
from prometheus_client import CollectorRegistry

from bench.case_dispatch import EVENTS as FILLED
from bench.case_dispatch import dispatch_all, fill
from bench.environment import Environment, Result
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import event_feed, routing
from billing.services.incoming import Incoming
from billing.services.leases import Lease, LeaseKind, shard_count
from billing.services.routing import Advance, Arrived
from billing.services.subjects import known_subjects
from workers.ground import Ground
from workers.leases import LeaseKeeper, LeaseSettings
from workers.metrics import RouterMetrics
from workers.router.consumers import Consumer, Routes
from workers.router.router import Router
from workers.router.settings import RouterSettings

PATIENCE_S = 60.0
WANTED = 0b111

TABLES = """
CREATE TABLE bench_buckets (
    tenant_id uuid, item text, hour timestamptz, records bigint NOT NULL, PRIMARY KEY (tenant_id, item, hour)
) WITH (fillfactor = 70);
CREATE TABLE bench_deliveries (
    tenant_id uuid, webhook_id uuid, event_id uuid, subject text NOT NULL, status text NOT NULL,
    due_at timestamptz NOT NULL, PRIMARY KEY (tenant_id, webhook_id, event_id)
);
CREATE INDEX bench_deliveries_due ON bench_deliveries (webhook_id, due_at, event_id) WHERE status = 'pending';
GRANT ALL ON bench_buckets, bench_deliveries TO tollway_worker;
"""
BUCKETS = """
INSERT INTO bench_buckets (tenant_id, item, hour, records)
SELECT t, i, date_trunc('hour', $3::timestamptz), count(*) FROM unnest($1::uuid[], $2::text[]) AS g (t, i)
GROUP BY 1, 2 ORDER BY 1, 2
ON CONFLICT (tenant_id, item, hour) DO UPDATE SET records = bench_buckets.records + excluded.records
"""
DELIVERIES = """
INSERT INTO bench_deliveries (tenant_id, webhook_id, event_id, subject, status, due_at)
SELECT t, $4::uuid, e, s, 'pending', $5 FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS g (t, e, s) ORDER BY e
ON CONFLICT DO NOTHING
"""
WEBHOOK = UUID(int=1)


async def fold(tx: Connection, events: Sequence[Incoming], now: datetime) -> Collection[UUID]:
    """A bucket per resource and hour."""
    await _fold(tx, [e.tenant_id for e in events], [e.resource for e in events], now)
    return ()


async def fan_out(tx: Connection, events: Sequence[Incoming], now: datetime) -> Collection[UUID]:
    """A delivery row per event."""
    ids, subjects = [e.event_id for e in events], [e.subject for e in events]
    await tx.execute(DELIVERIES, [e.tenant_id for e in events], ids, subjects, WEBHOOK, now)
    return ()


async def _fold(tx: Connection, tenants: list[UUID], items: list[str], now: datetime) -> None:
    await tx.execute(BUCKETS, tenants, items, now)


CONSUMERS = (
    Consumer("usage", frozenset({"usage.reported"}), fold),
    Consumer("webhooks", None, fan_out),
    Consumer("feed", None, event_feed.append),
)


async def run(env: Environment) -> list[Result]:
    """Dispatches a backlog, routes it, and runs the same statements without a bus."""
    owner = await asyncpg.connect(env.database_url)
    await owner.execute(TABLES)
    await owner.close()
    shards = await shard_count(env.worker)
    await env.bus.ensure_streams(shards)
    await fill(env, FILLED)
    await dispatch_all(env, shards)
    figure = await _route_all(env, shards)
    limit = await _statements(env)
    note = "the same statements from prepared arrays, without the bus"
    return [Result("route", figure, "events/s", limit, note)]


async def _route_all(env: Environment, shards: int) -> float:
    keeper = LeaseKeeper(env.worker, LeaseKind.ROUTER, uuid4(), LeaseSettings(), shards=shards)
    await keeper.step()
    settings, metrics = RouterSettings(), RouterMetrics(CollectorRegistry())
    routes = Routes(CONSUMERS, known_subjects())
    ground = Ground(env.worker, env.bus, env.clock)
    routed = 0
    began = time.perf_counter()
    async with Router(ground, keeper, routes, settings, metrics) as router:

        async def lane() -> None:
            nonlocal routed
            arrived = router.subscribe()
            while routed < FILLED:
                arrived.clear()
                done = await router.step()
                routed += done
                if not done and routed < FILLED:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(arrived.wait(), settings.idle_s)

        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*[lane() for _ in range(settings.lanes)])
        seconds = time.perf_counter() - began
    await keeper.close()
    return routed / seconds


async def _statements(env: Environment) -> float:
    """The statements of a cycle, over and over, on as many connections as the router has lanes."""
    settings = RouterSettings()
    size = settings.cycle_events_max
    rows = FILLED // size
    positions = await _positions(env)
    prepared = [_arrays(env, size, positions[n % len(positions)].shard) for n in range(rows)]
    names = [consumer.name for consumer in CONSUMERS]
    sequence = dict.fromkeys([lease.shard for lease in positions], 0)

    async def lane(own: int) -> None:
        mine = [lease for lease in positions if lease.shard % settings.lanes == own]
        for number, (arrived, items, subjects) in enumerate(prepared[own :: settings.lanes]):
            lease = mine[number % len(mine)]
            arrived.partitions[:] = [lease.shard] * size
            at = sequence[lease.shard]
            now = env.clock.now()
            async with env.worker.transaction() as tx:
                advance = Advance(lease, "bench", at, at + size, size)
                await routing.advance_and_mark(tx, [advance], names, arrived)
                await _fold(tx, arrived.tenant_ids, items, now)
                await tx.execute(
                    DELIVERIES, arrived.tenant_ids, arrived.event_ids, subjects, WEBHOOK, now
                )
                await event_feed.append_rows(
                    tx, arrived.partitions, arrived.tenant_ids, arrived.event_ids
                )
            sequence[lease.shard] = at + size

    began = time.perf_counter()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*[lane(own) for own in range(settings.lanes)])
    return rows * size / (time.perf_counter() - began)


async def _positions(env: Environment) -> list[Lease]:
    async with env.worker.transaction() as tx:
        rows = await tx.fetch(
            "UPDATE router_positions SET stream_identity = 'bench', last_sequence = 0 WHERE true"
            " RETURNING partition, term"
        )
    return [Lease(row["partition"], row["term"]) for row in rows]


def _arrays(env: Environment, size: int, shard: int) -> tuple[Arrived, list[str], list[str]]:
    now = env.clock.now()
    ids = [new_id(now) for _ in range(size)]
    arrived = Arrived(ids, [env.tenant.id] * size, [shard] * size, [WANTED] * size)
    return arrived, [f"item_{number}" for number in range(size)], ["usage.reported"] * size
