"""Usage records through gRPC batches of 1000, each batch committed with its event, against the same rows by pure SQL.

Invariant: the server runs in a process of its own, as `tollway serve` does, and shares the machine with PostgreSQL and
with the client, whose requests are encoded beforehand; the limit is PostgreSQL making, inserting and committing equal
rows, 1000 a time, on as many connections as there were callers.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from typing import Any

import grpc
import grpc.aio
import uvloop
from prometheus_client import CollectorRegistry
from tollway.usage.v1 import usage_service_pb2 as pb

from bench.environment import Environment, Result
from billing.runtime.clock import DatabaseClock
from billing.runtime.db import DatabaseSettings, Role, connect
from billing.runtime.ids import new_id
from billing.runtime.vault import Vault, new_key_text
from server.app import ServerSettings, start_grpc
from server.house import House

CALLERS = (1, 8)
BATCH = 1000
BATCHES = 150
WARM_UP_BATCHES = 20
CUSTOMERS = 17
METHOD = "/tollway.usage.v1.UsageService/BatchRecordUsage"

PURE_SQL = """
    INSERT INTO usage_records (
        tenant_id, idempotency_key, batch_id, meter_id, customer_id, used_at, quantity, accepted_at)
    SELECT $1, '2013-01-01T05:00:00Z+UA+' || ($2::integer * 1000 + n), $3, $4, $5,
           now() - n * interval '1 second', n / 4.0, now()
    FROM generate_series(1, 1000) AS n
    ORDER BY 2
    ON CONFLICT (tenant_id, idempotency_key) DO NOTHING
"""


async def run(env: Environment) -> list[Result]:
    """Records per second through the whole rim, and by pure SQL."""
    await make_world(env)
    results, first = [], 0
    for callers in CALLERS:
        batches = range(first, first + WARM_UP_BATCHES + BATCHES)
        through_grpc = await records_per_second(env, batches, callers)
        note = f"{callers} caller(s); the same rows by pure SQL on as many connections"
        by_sql = await _by_sql(env, callers)
        results.append(Result("usage_ingest", through_grpc, "records/s", by_sql, note))
        first = batches.stop
    return results


async def make_world(env: Environment) -> None:
    """The meter `minutes` and the customers C0 to C16."""
    owner = await env.owner()
    now = env.clock.now()
    await owner.execute(
        "INSERT INTO meters (tenant_id, id, key, display_name, aggregation, created_at)"
        " VALUES ($1, $2, 'minutes', 'Minutes', 'sum', now())",
        env.tenant.id,
        new_id(now),
    )
    await owner.executemany(
        "INSERT INTO customers (tenant_id, id, external_id, display_name, time_zone, created_at)"
        " VALUES ($1, $2, $3, $3, 'UTC', now())",
        [(env.tenant.id, new_id(now), f"C{n}") for n in range(CUSTOMERS)],
    )
    await owner.close()


async def records_per_second(env: Environment, batches: range, callers: int) -> float:
    """Of the batches of these numbers, each new, after the first WARM_UP_BATCHES of them."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_server_process, args=(env.database_url, theirs))
    process.start()
    port = await asyncio.to_thread(ours.recv)
    requests = [_request(n) for n in batches]
    metadata = (("authorization", f"Bearer {env.key}"),)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary(METHOD, None, pb.BatchRecordUsageResponse.FromString)
            await _send(call, iter(requests[:WARM_UP_BATCHES]), metadata, callers)
            began = time.perf_counter()
            await _send(call, iter(requests[WARM_UP_BATCHES:]), metadata, callers)
            return (len(batches) - WARM_UP_BATCHES) * BATCH / (time.perf_counter() - began)
    finally:
        ours.close()
        process.terminate()
        await asyncio.to_thread(process.join)


async def _send(call: Any, requests: Iterator[bytes], metadata: Any, callers: int) -> None:
    async def caller() -> None:
        for request in requests:
            answer = await call(request, metadata=metadata)
            assert answer.accepted == BATCH, "each record is new"

    await asyncio.gather(*(caller() for _ in range(callers)))


def _request(batch: int) -> bytes:
    request = pb.BatchRecordUsageRequest()
    used_at = datetime.now(UTC) - timedelta(hours=1)
    for n in range(BATCH):
        record = request.records.add(
            idempotency_key=f"2013-01-01T05:00:00Z+UA+{batch}.{n}",
            meter_key="minutes",
            external_customer_id=f"C{n % CUSTOMERS}",
            quantity=f"{n / 4}",
        )
        record.timestamp.FromDatetime(used_at - timedelta(seconds=n))
    return request.SerializeToString()


async def _by_sql(env: Environment, connections_count: int) -> float:
    tenant = new_id(env.clock.now())
    connections = [await env.owner() for _ in range(connections_count)]
    batches = iter(range(WARM_UP_BATCHES + BATCHES))

    async def insert(connection: Any, numbers: Iterator[int]) -> None:
        for number in numbers:
            batch_id = new_id(datetime.now(UTC))
            await connection.execute(PURE_SQL, tenant, number, batch_id, tenant, tenant)

    await insert(connections[0], iter([next(batches) for _ in range(WARM_UP_BATCHES)]))
    began = time.perf_counter()
    await asyncio.gather(*(insert(connection, batches) for connection in connections))
    seconds = time.perf_counter() - began
    for connection in connections:
        await connection.close()
    return BATCHES * BATCH / seconds


def _server_process(database_url: str, pipe: Connection) -> None:
    async def work() -> None:
        api = await connect(database_url, Role.API, DatabaseSettings())
        worker = await connect(database_url, Role.WORKER, DatabaseSettings())
        house = House(api, worker, DatabaseClock(), Vault.parse(new_key_text()))
        server = await start_grpc(house, ServerSettings(port=0), CollectorRegistry())
        pipe.send(server.port)
        await asyncio.Event().wait()

    uvloop.run(work())
