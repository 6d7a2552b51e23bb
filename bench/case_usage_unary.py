"""RecordUsage, one record a call, committed with its event, against an empty grpc.aio method under the same callers.

Invariant: each server runs in a process of its own, and they take many short turns under the same load from this one,
so that whatever else the machine does meets both alike. A call is counted when its record is committed.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from operator import truediv
from typing import Any

import grpc
import grpc.aio
import uvloop
from prometheus_client import CollectorRegistry
from tollway.usage.v1 import usage_service_pb2 as pb

from bench.case_usage_ingest import CUSTOMERS, make_world
from bench.environment import Environment, Result
from billing.runtime.clock import DatabaseClock
from billing.runtime.db import DatabaseSettings, Role, connect
from billing.runtime.vault import Vault, new_key_text
from cli.compose import tune_garbage_collector
from server.app import ServerSettings, start_grpc
from server.house import House

CALLERS = 64
TURNS = 20
TURN_SECONDS = 0.5
WARM_UP_SECONDS = 2.0
METHOD = "/tollway.usage.v1.UsageService/RecordUsage"

Serve = Callable[[str], Awaitable[int]]


async def run(env: Environment) -> list[Result]:
    """Calls per second of the house, and of an empty method."""
    await make_world(env)
    requests = _requests()
    async with AsyncExitStack() as stack:
        calls = [
            await stack.enter_async_context(_served(serve, env))
            for serve in (_serve_house, _serve_empty)
        ]
        for call in calls:
            await _calls(call, requests, WARM_UP_SECONDS)
        done, seconds = [0] * len(calls), [0.0] * len(calls)
        for _ in range(TURNS):
            for n, call in enumerate(calls):
                began = time.perf_counter()
                done[n] += await _calls(call, requests, TURN_SECONDS)
                seconds[n] += time.perf_counter() - began
    house, empty = map(truediv, done, seconds)
    return [Result("usage_unary", house, "calls/s", empty, "an empty method, same callers")]


def _requests() -> Iterator[bytes]:
    """New records without end."""
    for n in itertools.count():
        record = pb.UsageRecord(
            idempotency_key=f"unary-{n}",
            meter_key="minutes",
            external_customer_id=f"C{n % CUSTOMERS}",
            quantity="1.5",
        )
        record.timestamp.FromDatetime(datetime.now(UTC))
        yield pb.RecordUsageRequest(record=record).SerializeToString()


async def _calls(call: Any, requests: Iterator[bytes], seconds: float) -> int:
    until = time.perf_counter() + seconds

    async def caller() -> int:
        done = 0
        while time.perf_counter() < until:
            await call(next(requests))
            done += 1
        return done

    return sum(await asyncio.gather(*(caller() for _ in range(CALLERS))))


@asynccontextmanager
async def _served(serve: Serve, env: Environment) -> AsyncIterator[Any]:
    """RecordUsage of a server in a process of its own; every call must be accepted."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_server_process, args=(serve, env.database_url, theirs))
    process.start()
    port = await asyncio.to_thread(ours.recv)
    metadata = (("authorization", f"Bearer {env.key}"),)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Any = channel.unary_unary(METHOD, None, pb.RecordUsageResponse.FromString)

            async def call(request: bytes) -> None:
                answer = await method(request, metadata=metadata)
                assert answer.result.outcome == pb.RECORD_OUTCOME_ACCEPTED

            yield call
    finally:
        ours.close()
        process.terminate()
        await asyncio.to_thread(process.join)


def _server_process(serve: Serve, database_url: str, pipe: Connection) -> None:
    tune_garbage_collector()  # as every process of the product does

    async def work() -> None:
        pipe.send(await serve(database_url))
        await asyncio.Event().wait()

    uvloop.run(work())


async def _serve_house(database_url: str) -> int:
    api = await connect(database_url, Role.API, DatabaseSettings())
    worker = await connect(database_url, Role.WORKER, DatabaseSettings())
    house = House(api, worker, DatabaseClock(), Vault.parse(new_key_text()))
    server = await start_grpc(house, ServerSettings(port=0), CollectorRegistry())
    _KEPT.append(server)
    return server.port


async def _serve_empty(_: str) -> int:
    accepted = pb.RecordUsageResponse(result=pb.RecordResult(outcome=pb.RECORD_OUTCOME_ACCEPTED))

    async def record_usage(
        request: pb.RecordUsageRequest, context: object
    ) -> pb.RecordUsageResponse:
        return accepted

    handler = grpc.unary_unary_rpc_method_handler(
        record_usage,
        pb.RecordUsageRequest.FromString,
        pb.RecordUsageResponse.SerializeToString,
    )
    server = grpc.aio.server()
    service, method = METHOD.strip("/").split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _KEPT.append(server)
    return port


# A server that nothing refers to stops serving.
_KEPT: list[object] = []
