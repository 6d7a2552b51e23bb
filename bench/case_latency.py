"""Latency: from the answer of an RPC that committed events to the arrival of their webhooks, at a steady rate.

Invariant: the whole house runs as `tollway up` runs it, server and workers in processes of their own; the receiver is
a third one, and all read the same monotonic clock. Above 100 events/s a call publishes ten, so that it is the pipeline
that is measured and not the calls.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.connection import Connection as Pipe
from typing import Any, Final, cast

import grpc.aio
import uvloop
from tollway.event.v1 import event_service_pb2 as pb
from tollway.event.v1.event_service_pb2_grpc import EventServiceStub
from tollway.webhook.v1 import webhook_service_pb2 as webhook_pb
from tollway.webhook.v1.webhook_service_pb2_grpc import WebhookServiceStub

from bench.environment import Environment, Result
from billing.runtime.settings import read_settings
from cli.demo.airline import make_tenant
from cli.up import UpOptions, running

SECONDS: Final = 8.0
# Events per second, how many of them a call publishes, and the target's p50 and p99 in ms.
RATES: Final = ((100, 1, 5, 15), (1_000, 10, 15, 40))
WARM_UP_S: Final = 3.0
RESOURCES: Final = 200
PATIENCE_S: Final = 30.0
_ANSWER: Final = b"HTTP/1.1 204 No Content\r\n\r\n"


async def run(env: Environment) -> list[Result]:
    """p50 and p99 at each rate."""
    results = []
    with _receiver() as (pipe, url):
        async with _house(env) as (channel, operator_key):
            tenant = await make_tenant(channel, operator_key, "latency")
            endpoint = webhook_pb.CreateEndpointRequest(url=url, subjects=["custom.*"])
            await WebhookServiceStub(channel).CreateEndpoint(endpoint, metadata=tenant.metadata)
            load = Load(EventServiceStub(channel), tenant.metadata, pipe)
            await load.arrivals_of(await load.publish(100, 1, WARM_UP_S))
            for rate, per_call, p50, p99 in RATES:
                answered = await load.publish(rate, per_call, SECONDS)
                arrived = await load.arrivals_of(answered)
                late = sorted((arrived[event] - answered[event]) * 1_000 for event in answered)
                cuts = statistics.quantiles(late, n=100)
                name, note = f"latency {rate:,}/s", f"{len(late):,} webhooks; target {{}} ms"
                results.append(Result(f"{name} p50", cuts[49], "ms", note=note.format(p50)))
                results.append(Result(f"{name} p99", cuts[98], "ms", note=note.format(p99)))
    return results


class Load:
    """Publishes at a steady rate, and asks the receiver what came."""

    def __init__(self, stub: Any, metadata: Any, pipe: Pipe) -> None:
        self._stub, self._metadata, self._pipe = stub, metadata, pipe
        self._calls = 0

    async def publish(self, rate: int, per_call: int, seconds: float) -> dict[str, float]:
        """When the call that committed each event was answered, on the monotonic clock."""
        answered: dict[str, float] = {}

        async def call(number: int) -> None:
            request = pb.PublishEventsRequest()
            for place in range(per_call):
                resource = f"resource-{(number * per_call + place) % RESOURCES}"
                request.events.add(subject="custom.latency", resource_id=resource)
            answer = await self._stub.PublishEvents(request, metadata=self._metadata)
            now = time.monotonic()
            answered.update((event.event_id, now) for event in answer.events)

        begun, pause = time.monotonic(), per_call / rate
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds / pause)):
                await asyncio.sleep(max(0.0, begun + number * pause - time.monotonic()))
                group.create_task(call(number))
        return answered

    async def arrivals_of(self, answered: dict[str, float]) -> dict[str, float]:
        """When each event's webhook arrived first; waits for all of them."""
        arrived: dict[str, float] = {}
        async with asyncio.timeout(PATIENCE_S):
            while not answered.keys() <= arrived.keys():
                await asyncio.sleep(0.2)
                self._pipe.send("what came?")
                arrived |= await asyncio.to_thread(self._pipe.recv)
        return arrived


@asynccontextmanager
async def _house(env: Environment) -> AsyncIterator[tuple[grpc.aio.Channel, str]]:
    """`tollway up` in a folder of its own: the environment's servers stand idle beside it."""
    options = UpOptions(env.folder / "up", grpc_port=0, http_port=0)
    async with (
        running(options, read_settings(os.environ), asyncio.Event()) as address,
        grpc.aio.insecure_channel(address.grpc) as channel,
    ):
        yield channel, address.operator_key


# --- the receiver's process


class _Receiver(asyncio.Protocol):
    """Reads requests with a Content-Length, notes when each event came first, and answers each."""

    def __init__(self, arrived: dict[str, float]) -> None:
        self._arrived = arrived
        self._buffer = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not say by their class what they can do.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            whole = end + 4 + length
            if len(self._buffer) < whole:
                return
            now = time.monotonic()
            self._arrived.setdefault(json.loads(self._buffer[end + 4 : whole])["id"], now)
            self._buffer = self._buffer[whole:]
            if self._transport is not None:
                self._transport.write(_ANSWER)


def _receive(pipe: Pipe) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        arrived: dict[str, float] = {}
        server = await loop.create_server(lambda: _Receiver(arrived), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        while await loop.run_in_executor(None, pipe.recv) is not None:
            pipe.send(arrived)
            arrived.clear()

    uvloop.run(serve())


@contextmanager
def _receiver() -> Iterator[tuple[Pipe, str]]:
    """A receiver on this machine, and the pipe to ask it."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_receive, args=(there,))
    process.start()
    try:
        yield here, f"http://127.0.0.1:{here.recv()}/"
    finally:
        here.send(None)
        process.join()
