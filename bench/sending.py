"""What the webhook cases share: a receiver and a sender, each a process of its own, and endpoints with deliveries."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, Final, cast
from uuid import UUID

import uvloop
from prometheus_client import CollectorRegistry
from tollway.customer.v1 import customer_events_pb2
from tollway.event.v1 import event_pb2

from bench.environment import Environment
from billing.domain.ids import Prefix, encode
from billing.runtime.clock import DatabaseClock
from billing.runtime.db import Connection, DatabaseSettings, Role, connect, read_clock
from billing.runtime.ids import new_id
from billing.runtime.vault import Vault
from billing.services import events, webhooks
from billing.services.actor import Cause
from billing.services.incoming import Incoming
from billing.services.leases import LeaseKind
from billing.services.webhook_fanout import fan_out
from workers.leases import LeaseKeeper, LeaseSettings
from workers.loop import run_loop
from workers.metrics import SenderMetrics
from workers.webhooks.client import WebhookClient
from workers.webhooks.guard import Guard
from workers.webhooks.poster import Poster
from workers.webhooks.sender import Sender
from workers.webhooks.settings import SenderSettings

LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"),)
IDLE_S: Final = 0.002  # the cases send no hints; a hint would wake the loop at once
EVENTS_AT_ONCE: Final = 1_000
VAULT_KEY: Final = b"b" * 32
_ANSWER: Final = b"HTTP/1.1 204 No Content\r\n\r\n"


class _Receiver(asyncio.Protocol):
    """Answers each request, but for those to /hang, and none while all are held; notes when each came."""

    arrived: dict[bytes, list[float]]
    held: list[_Receiver]
    holding = False

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
            path = head.split(b" ", 2)[1]
            name = path + head.split(b"webhook-id:", 1)[1].split(b"\r\n", 1)[0]
            type(self).arrived.setdefault(name, []).append(time.time())
            if type(self).holding:
                type(self).held.append(self)
            elif not path.startswith(b"/hang"):
                self.answer()

    def answer(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_ANSWER)


def _receive(pipe: Pipe) -> None:
    """Serves until it is told to stop; "hold", "release", "count" and "arrivals" are the other words."""
    _Receiver.arrived, _Receiver.held = {}, []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Receiver, "127.0.0.1", 0, backlog=4096)
        pipe.send(server.sockets[0].getsockname()[1])
        while (word := await loop.run_in_executor(None, pipe.recv)) != "stop":
            if word == "hold":
                _Receiver.holding = True
            elif word == "release":
                _Receiver.holding = False
                for one in _Receiver.held:
                    one.answer()
                _Receiver.held.clear()
            pipe.send(_Receiver.arrived if word == "arrivals" else len(_Receiver.held))

    uvloop.run(serve())


class ReceiverProcess:
    """The receivers of all endpoints, in one process."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_receive, args=(there,))
        self._process.start()
        self.port: int = self._pipe.recv()

    def url(self, path: str) -> str:
        """The endpoint's URL. One below /hang never gets an answer."""
        return f"http://127.0.0.1:{self.port}{path}"

    async def ask(self, word: str) -> Any:
        """What the process answers to a word."""
        return await asyncio.to_thread(self._ask, word)

    def _ask(self, word: str) -> Any:
        self._pipe.send(word)
        return self._pipe.recv()

    async def arrivals(self) -> dict[str, list[float]]:
        """When each message came, by path and webhook-id, in Unix time."""
        found: dict[bytes, list[float]] = await self.ask("arrivals")
        return {name.replace(b" ", b"").decode(): times for name, times in found.items()}

    def stop(self) -> None:
        """Ends it."""
        self._pipe.send("stop")
        self._process.join()


def _send(database_url: str, pipe: Pipe) -> None:
    async def work() -> None:
        database = await connect(database_url, Role.WORKER, DatabaseSettings())
        clock = DatabaseClock()
        await read_clock(database, clock)
        settings, wake, stop = SenderSettings(), asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=lambda: (pipe.recv(), loop.call_soon_threadsafe(stop.set)), daemon=True
        ).start()
        keeper = LeaseKeeper(
            database,
            LeaseKind.SENDER,
            new_id(clock.now()),
            LeaseSettings(),
            shards=webhooks.SENDER_SHARDS,
        )
        client = WebhookClient(settings, Guard(LOOPBACK), user_agent="tollway/bench")
        poster = Poster(client, Vault(VAULT_KEY), clock, SenderMetrics(CollectorRegistry()))
        sender = Sender(database, keeper, poster, clock, wake, settings)
        async with asyncio.TaskGroup() as group, sender.running():
            group.create_task(run_loop(keeper.step, stop, idle_s=LeaseSettings().renew_every_s))
            await run_loop(sender.step, stop, idle_s=IDLE_S, wake=wake)

    uvloop.run(work())


@contextlib.contextmanager
def sending(env: Environment) -> Iterator[multiprocessing.process.BaseProcess]:
    """A sender's process; it is killed at the end."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_send, args=(env.database_url, there))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        here.close()


@dataclass(frozen=True, slots=True)
class Field:
    """A tenant whose endpoints want subjects of their own."""

    env: Environment
    cause: Cause

    async def endpoint(self, url: str, subject: str) -> None:
        """An endpoint that gets what `deliver` makes of this subject."""
        now = self.env.clock.now()
        draft = webhooks.NewEndpoint(url, [subject], "", allowed=LOOPBACK)
        async with self.env.worker.transaction() as tx:
            await webhooks.create_endpoint(
                tx, self.env.tenant.id, draft, self.cause, Vault(VAULT_KEY), now=now
            )

    async def deliver(self, subject: str, count: int) -> list[str]:
        """So many events for every endpoint that wants this subject, committed; their ids."""
        now, made = self.env.clock.now(), []
        for first in range(0, count, EVENTS_AT_ONCE):
            most = min(EVENTS_AT_ONCE, count - first)
            async with self.env.worker.transaction() as tx:
                ids = await events.emit(tx, [self._event() for _ in range(most)], now=now)
                await fan_out(tx, await self._incoming(tx, subject, ids), now)
            made += ids
        return [encode(Prefix.EVENT, event_id) for event_id in made]

    def _event(self) -> events.NewEvent:
        now, tenant = self.env.clock.now(), self.env.tenant.id
        name = encode(Prefix.CUSTOMER, new_id(now))
        payload = customer_events_pb2.CustomerCreated(customer_id=name, external_id="x" * 600)
        return events.NewEvent(tenant, name, 1, payload, now, self.cause)

    async def _incoming(self, tx: Connection, subject: str, ids: Sequence[UUID]) -> list[Incoming]:
        rows = await tx.fetch(
            "SELECT id, envelope FROM billing_events WHERE id = ANY ($1) ORDER BY id", ids
        )
        tenant = self.env.tenant.id
        read = [(row["id"], event_pb2.Event.FromString(row["envelope"])) for row in rows]
        return [Incoming(i, tenant, subject, e.resource_id, 1, 0, e) for i, e in read]

    async def count(self, condition: str) -> int:
        """How many deliveries there are under a condition in SQL."""
        async with self.env.worker.connection() as connection:
            found: int = await connection.fetchval(
                f"SELECT count(*) FROM webhook_deliveries WHERE {condition}"
            )
        return found


def field_of(env: Environment) -> Field:
    """The tenant of the environment."""
    return Field(env, Cause("opr_bench", new_id(env.clock.now())))
