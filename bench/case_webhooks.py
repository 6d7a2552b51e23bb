"""Webhooks: due deliveries, claimed, signed, posted over loopback and committed with their attempt rows.

Invariant: the limit is a bare aiohttp client that posts the same bodies to the same receiver, as many at once as
the sender claims; the receiver runs in a process of its own and answers 204 to everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from typing import Final, cast
from uuid import UUID, uuid4

import aiohttp
import uvloop
from prometheus_client import CollectorRegistry
from tollway.customer.v1 import customer_events_pb2
from tollway.event.v1 import event_pb2

from bench.environment import Environment, Result
from billing.domain.ids import Prefix, encode
from billing.runtime.ids import new_id
from billing.services import events, tenants, webhooks
from billing.services.actor import Cause
from billing.services.incoming import Incoming
from billing.services.leases import LeaseKind
from billing.services.webhook_fanout import fan_out
from workers.leases import LeaseKeeper, LeaseSettings
from workers.loop import run_loop
from workers.metrics import SenderMetrics
from workers.webhooks.body import body_of
from workers.webhooks.client import WebhookClient
from workers.webhooks.guard import Guard
from workers.webhooks.poster import Poster
from workers.webhooks.sender import Sender
from workers.webhooks.settings import SenderSettings

TENANTS: Final = 40
EVENTS: Final = 500  # of each tenant, for its one endpoint
TOTAL: Final = TENANTS * EVENTS
IDLE_S: Final = 0.25  # as the worker's loop
PATIENCE_S: Final = 45.0
LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"),)
FILLING: Final = "x" * 600
_ANSWER: Final = b"HTTP/1.1 204 No Content\r\n\r\n"


class _Receiver(asyncio.Protocol):
    """Reads requests with a Content-Length and answers each; nothing else is ever sent to it."""

    def __init__(self) -> None:
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
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            if self._transport is not None:
                self._transport.write(_ANSWER)


def _receive(pipe: Pipe) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Receiver, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    uvloop.run(serve())


async def run(env: Environment) -> list[Result]:
    """Committed deliveries per second, and posts per second without the house."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    receiver = multiprocessing.get_context("spawn").Process(target=_receive, args=(there,))
    receiver.start()
    try:
        port = await asyncio.to_thread(here.recv)
        bodies = await _fill(env, f"http://127.0.0.1:{port}/")
        figure = await _send_all(env)
        limit = await _post_all(f"http://127.0.0.1:{port}/", bodies)
    finally:
        here.send(None)
        await asyncio.to_thread(receiver.join)
    note = "a bare aiohttp client posting the same bodies"
    return [Result("webhooks", figure, "deliveries/s", limit, note)]


async def _fill(env: Environment, url: str) -> list[bytes]:
    """Tenants with an endpoint and due deliveries each; the bodies that will be posted."""
    bodies: list[bytes] = []
    for number in range(TENANTS):
        now = env.clock.now()
        cause = Cause("opr_bench", new_id(now))
        async with env.worker.transaction() as tx:
            draft = tenants.NewTenant(f"bench {number}", "live", "UTC")
            tenant = await tenants.create_tenant(tx, draft, cause, now=now)
            endpoint = webhooks.NewEndpoint(url, ["customer.*"], "", allowed=LOOPBACK)
            await webhooks.create_endpoint(tx, tenant.id, endpoint, cause, env.house.vault, now=now)
            new = [_event(tenant.id, new_id(now), cause, env) for _ in range(EVENTS)]
            ids = await events.emit(tx, new, now=now)
            rows = await tx.fetch(
                "SELECT id, envelope FROM billing_events WHERE id = ANY ($1)", ids
            )
            arriving = [_incoming(tenant.id, row["id"], row["envelope"]) for row in rows]
            await fan_out(tx, arriving, now)
        bodies += [body_of(row["envelope"]) for row in rows]
    return bodies


def _event(tenant_id: UUID, customer: UUID, cause: Cause, env: Environment) -> events.NewEvent:
    name = encode(Prefix.CUSTOMER, customer)
    payload = customer_events_pb2.CustomerCreated(customer_id=name, external_id=FILLING)
    return events.NewEvent(tenant_id, name, 1, payload, env.clock.now(), cause)


def _incoming(tenant_id: UUID, event_id: UUID, encoded: bytes) -> Incoming:
    envelope = event_pb2.Event.FromString(encoded)
    return Incoming(event_id, tenant_id, envelope.subject, envelope.resource_id, 1, 0, envelope)


async def _send_all(env: Environment) -> float:
    settings, wake = SenderSettings(), asyncio.Event()
    keeper = LeaseKeeper(
        env.worker, LeaseKind.SENDER, uuid4(), LeaseSettings(), shards=webhooks.SENDER_SHARDS
    )
    await keeper.step()
    guard = Guard(LOOPBACK)
    client = WebhookClient(settings, guard, user_agent="tollway/bench")
    poster = Poster(client, env.house.vault, env.clock, SenderMetrics(CollectorRegistry()))
    sender = Sender(env.worker, keeper, poster, env.clock, wake, settings)
    claimed, stop = 0, asyncio.Event()
    renewing = asyncio.create_task(
        run_loop(keeper.step, stop, idle_s=LeaseSettings().renew_every_s)
    )
    async with asyncio.timeout(PATIENCE_S), sender.running():
        began = time.perf_counter()
        while claimed < TOTAL:
            wake.clear()
            got = await sender.step()
            claimed += got
            if not got:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), IDLE_S)
        await sender.settled()
        seconds = time.perf_counter() - began
    stop.set()
    await renewing
    await keeper.close()
    async with env.worker.connection() as connection:
        delivered = await connection.fetchval(
            "SELECT count(*) FROM webhook_deliveries WHERE status = 'delivered'"
        )
    assert delivered == TOTAL, f"{delivered} of {TOTAL} were delivered"
    return TOTAL / seconds


async def _post_all(url: str, bodies: Sequence[bytes]) -> float:
    left = iter(bodies)

    async def post(session: aiohttp.ClientSession) -> None:
        for body in left:
            async with session.post(url, data=body) as response:
                await response.read()

    connector = aiohttp.TCPConnector(limit=0)
    async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession(connector=connector) as session:
        began = time.perf_counter()
        await asyncio.gather(*[post(session) for _ in range(SenderSettings().claim_rows_max)])
        return len(bodies) / (time.perf_counter() - began)
