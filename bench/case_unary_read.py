"""A unary RPC that reads one row under its tenant, against a bare grpc.aio method with the same transaction by asyncpg.

Invariant: each server runs in a process of its own, and they take many short turns under the same load from this one,
so that whatever else the machine does meets all of them alike.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from multiprocessing.connection import Connection
from operator import truediv
from typing import Any

import asyncpg
import grpc
import grpc.aio
import uvloop
from prometheus_client import CollectorRegistry
from tollway.customer.v1 import customer_service_pb2 as pb
from tollway.customer.v1.customer_service_pb2_grpc import (
    CustomerServiceServicer,
    CustomerServiceStub,
    add_CustomerServiceServicer_to_server,
)

from bench.environment import Environment, Result
from billing.runtime.clock import DatabaseClock
from billing.runtime.db import DatabaseSettings, Role, connect
from billing.runtime.ids import new_id
from billing.runtime.vault import Vault, new_key_text
from billing.services import customers
from billing.services.actor import Cause
from server.app import ServerSettings, start_grpc
from server.house import House

CALLERS = 16
TURNS = 40
TURN_SECONDS = 0.25
WARM_UP_SECONDS = 1.5

Serve = Callable[[str], Awaitable[int]]


async def run(env: Environment) -> list[Result]:
    """Calls per second of the house, of the bare method, and of an empty one."""
    now = env.clock.now()
    async with env.api.transaction(env.tenant.id) as tx:
        draft = customers.NewCustomer("bench", "Bench", "UTC")
        customer = await customers.create_customer(
            tx, env.tenant.id, draft, Cause("opr_bench", new_id(now)), now=now
        )
    request = pb.GetCustomerRequest(external_id="bench")
    metadata = (("authorization", f"Bearer {env.key}"), ("bench-tenant", str(customer.tenant_id)))
    house, bare, empty = await _rates(env.database_url, request, metadata)
    return [
        Result("unary_read", house, "calls/s", bare, "a bare method with the same transaction"),
        Result("unary_read", house, "calls/s", empty, "an empty method"),
    ]


async def _rates(
    database_url: str, request: pb.GetCustomerRequest, metadata: tuple[tuple[str, str], ...]
) -> tuple[float, ...]:
    """Calls per second of each server, over all of its turns."""
    async with AsyncExitStack() as stack:
        calls = [
            await stack.enter_async_context(_served(serve, database_url))
            for serve in (_serve_house, _serve_bare, _serve_empty)
        ]
        for call in calls:
            await _calls(call, request, metadata, WARM_UP_SECONDS)
        done, seconds = [0] * len(calls), [0.0] * len(calls)
        for _ in range(TURNS):
            for n, call in enumerate(calls):
                began = time.perf_counter()
                done[n] += await _calls(call, request, metadata, TURN_SECONDS)
                seconds[n] += time.perf_counter() - began
    return tuple(map(truediv, done, seconds))


@asynccontextmanager
async def _served(serve: Serve, database_url: str) -> AsyncIterator[Any]:
    """GetCustomer of a server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_server_process, args=(serve, database_url, theirs))
    process.start()
    port = await asyncio.to_thread(ours.recv)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield CustomerServiceStub(channel).GetCustomer
    finally:
        ours.close()
        process.terminate()
        await asyncio.to_thread(process.join)


async def _calls(call: Any, request: pb.GetCustomerRequest, metadata: Any, seconds: float) -> int:
    until = time.perf_counter() + seconds

    async def caller() -> int:
        done = 0
        while time.perf_counter() < until:
            await call(request, metadata=metadata)
            done += 1
        return done

    return sum(await asyncio.gather(*(caller() for _ in range(CALLERS))))


def _server_process(serve: Serve, database_url: str, pipe: Connection) -> None:
    async def work() -> None:
        pipe.send(await serve(database_url))
        await asyncio.Event().wait()

    uvloop.run(work())


class _ReadOnly(CustomerServiceServicer):
    """What is measured is GetCustomer; nobody calls the other methods."""

    async def CreateCustomer(
        self, request: pb.CreateCustomerRequest, context: Any
    ) -> pb.CreateCustomerResponse:
        """Never called."""
        return pb.CreateCustomerResponse()

    async def UpdateCustomer(
        self, request: pb.UpdateCustomerRequest, context: Any
    ) -> pb.UpdateCustomerResponse:
        """Never called."""
        return pb.UpdateCustomerResponse()

    async def ListCustomers(
        self, request: pb.ListCustomersRequest, context: Any
    ) -> pb.ListCustomersResponse:
        """Never called."""
        return pb.ListCustomersResponse()


async def _serve_house(database_url: str) -> int:
    api = await connect(database_url, Role.API, DatabaseSettings())
    worker = await connect(database_url, Role.WORKER, DatabaseSettings())
    house = House(api, worker, DatabaseClock(), Vault.parse(new_key_text()))
    server = await start_grpc(house, ServerSettings(port=0), CollectorRegistry())
    _KEPT.append(server)
    return server.port


async def _serve_bare(database_url: str) -> int:
    pool = await asyncpg.create_pool(
        database_url,
        min_size=1,
        max_size=10,
        reset=_no_reset,
        server_settings={"role": "tollway_api"},
    )

    class Bare(_ReadOnly):
        async def GetCustomer(
            self, request: pb.GetCustomerRequest, context: Any
        ) -> pb.GetCustomerResponse:
            tenant = dict(context.invocation_metadata())["bench-tenant"]
            async with pool.acquire() as connection:
                await connection.execute(f"BEGIN; SET LOCAL tollway.tenant = '{tenant}'")
                row = await connection.fetchrow(
                    "SELECT * FROM customers WHERE tenant_id = $1 AND external_id = $2",
                    tenant,
                    request.external_id,
                )
                await connection.execute("COMMIT")
            assert row is not None
            return pb.GetCustomerResponse(customer=pb.Customer(external_id=row["external_id"]))

    return await _serve(Bare())


async def _serve_empty(_: str) -> int:
    class Empty(_ReadOnly):
        async def GetCustomer(
            self, request: pb.GetCustomerRequest, context: Any
        ) -> pb.GetCustomerResponse:
            return pb.GetCustomerResponse()

    return await _serve(Empty())


async def _serve(servicer: CustomerServiceServicer) -> int:
    server = grpc.aio.server()
    add_CustomerServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _KEPT.append(server)
    return port


async def _no_reset(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """As the house's pools do."""


# A server that nothing refers to stops serving.
_KEPT: list[object] = []
