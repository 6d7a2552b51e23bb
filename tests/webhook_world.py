"""A tenant with endpoints, real receivers that check every request, and senders: for the webhook path's tests."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import asyncpg
import standardwebhooks
import svix.webhooks
from aiohttp import web
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry
from queries.models import Webhook
from tollway.customer.v1 import customer_events_pb2
from tollway.event.v1 import event_pb2

from billing.domain.address import Network
from billing.domain.ids import Prefix, decode, encode
from billing.runtime.clock import Clock
from billing.runtime.ids import new_id
from billing.runtime.vault import Vault
from billing.services import events
from billing.services.actor import Cause
from billing.services.incoming import Incoming
from billing.services.leases import LeaseKind
from billing.services.tenants import NewTenant, create_tenant
from billing.services.webhook_fanout import fan_out
from billing.services.webhooks import SENDER_SHARDS, NewEndpoint, create_endpoint
from tests.conftest import Databases
from workers.leases import LeaseKeeper, LeaseSettings
from workers.metrics import SenderMetrics
from workers.webhooks.client import WebhookClient
from workers.webhooks.guard import Guard
from workers.webhooks.poster import Poster
from workers.webhooks.sender import Sender
from workers.webhooks.settings import SenderSettings

LOOPBACK: Final[tuple[Network, ...]] = (
    ipaddress.ip_network("127.0.0.0/8"),
    ipaddress.ip_network("::1/128"),
)
VAULT: Final = Vault(b"v" * 32)
USUAL: Final = SenderSettings()
# Tests that need a timeout to pass take this one; the others never reach it.
FAST: Final = SenderSettings(connect_timeout_s=0.5, total_timeout_s=0.5)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def ok(request: web.Request) -> web.StreamResponse:
    return web.Response(status=204)


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


def status(code: int, **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text=f"status {code}", headers=headers)

    return answer


class Receiver:
    """A tenant's own system: counts what arrives, verifies it with both published libraries, answers as told."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.secrets: dict[str, str] = {}
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.verified = 0
        self.port = 0
        self._arrived = asyncio.Condition()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body, headers = await request.read(), dict(request.headers)
        if secret := self.secrets.get(request.path):
            standardwebhooks.Webhook(secret).verify(
                body, {k.lower(): v for k, v in headers.items()}
            )
            svix.webhooks.Webhook(secret).verify(body, {k.lower(): v for k, v in headers.items()})
            self.verified += 1
        async with self._arrived:
            self.got.append((request.path, headers, body))
            self._arrived.notify_all()
        return await self.answers.get(request.path, ok)(request)

    async def arrived(self, path: str, count: int = 1) -> None:
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.ids(path)) >= count)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def ids(self, path: str) -> list[str]:
        return [headers["webhook-id"] for at, headers, _ in self.got if at == path]

    def bodies(self, path: str) -> list[Any]:
        return [json.loads(body) for at, _, body in self.got if at == path]


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", receiver.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.port = runner.addresses[0][1]
    yield receiver
    await runner.cleanup()


@dataclass(slots=True)
class WebhookWorld:
    """One tenant in live mode."""

    databases: Databases
    receiver: Receiver
    tenant_id: UUID
    cause: Cause
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    keepers: list[LeaseKeeper] = field(default_factory=list)

    async def endpoint(
        self, path: str, *subjects: str, answer: Answer = ok, **more: Any
    ) -> Webhook:
        """An endpoint at the receiver, which verifies what comes for it."""
        draft = NewEndpoint(self.receiver.url(path), subjects, "", **more, allowed=LOOPBACK)
        async with self.databases.api.transaction(self.tenant_id) as tx:
            webhook, secret = await create_endpoint(
                tx, self.tenant_id, draft, self.cause, VAULT, now=self.databases.clock.now()
            )
        self.receiver.secrets[path] = secret.to_text()
        self.receiver.answers[path] = answer
        return webhook

    async def emit(self, count: int = 1, payload: Message | None = None) -> list[Incoming]:
        """New events, as the router would hand them over."""
        now = self.databases.clock.now()
        new = [
            events.NewEvent(
                self.tenant_id,
                encode(Prefix.CUSTOMER, new_id(now)),
                1,
                payload or customer_events_pb2.CustomerCreated(customer_id="cus_x"),
                now,
                self.cause,
            )
            for _ in range(count)
        ]
        async with self.databases.worker.transaction() as tx:
            ids = await events.emit(tx, new, now=now)
        rows = await self.rows(
            "SELECT id, envelope FROM billing_events WHERE id = ANY ($1) ORDER BY id", ids
        )
        return [incoming(row["id"], row["envelope"]) for row in rows]

    async def fan_out(self, arriving: Sequence[Incoming]) -> None:
        async with self.databases.worker.transaction() as tx:
            assert not await fan_out(tx, arriving, self.databases.clock.now())
        self.wake.set()

    async def deliverable(self, count: int = 1, payload: Message | None = None) -> list[str]:
        """New events, fanned out; their ids as receivers see them."""
        arriving = await self.emit(count, payload)
        await self.fan_out(arriving)
        return [encode(Prefix.EVENT, event.event_id) for event in arriving]

    async def rows(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        async with self.databases.worker.connection() as connection:
            return await connection.fetch(statement, *values)

    async def make_due(self) -> None:
        """Whatever waits for its next attempt is due."""
        await self.rows(
            "UPDATE webhook_deliveries SET due_at = $1 WHERE status = 'pending'",
            self.databases.clock.now(),
        )

    async def statuses(self) -> Counter[str]:
        return Counter(
            r["status"] for r in await self.rows("SELECT status FROM webhook_deliveries")
        )

    async def attempts(self) -> list[asyncpg.Record]:
        return await self.rows(
            "SELECT * FROM webhook_delivery_attempts ORDER BY event_id, attempt_number"
        )

    async def check_balance(self) -> None:
        """Matched = the delivery rows, per endpoint; and no claim is left when nothing is under way."""
        for row in await self.rows(
            "SELECT w.id, coalesce((SELECT sum(m.count) FROM webhook_matched m"
            "   WHERE m.webhook_id = w.id), 0) AS matched,"
            " (SELECT count(*) FROM webhook_deliveries d WHERE d.webhook_id = w.id) +"
            " coalesce((SELECT sum(c.count) FROM webhook_closed c WHERE c.webhook_id = w.id), 0) AS made"
            " FROM webhooks w"
        ):
            assert row["matched"] == row["made"]

    @contextlib.asynccontextmanager
    async def sender(
        self,
        settings: SenderSettings = USUAL,
        *,
        allowed: Sequence[Network] = LOOPBACK,
        clock: Clock | None = None,
    ) -> AsyncIterator[Sender]:
        """A sender with leases of its own; they are kept when it is killed, and given up when it ends."""
        keeper = self.keeper()
        self.keepers.append(keeper)
        await keeper.step()
        client = WebhookClient(settings, Guard(allowed), user_agent="tollway/test")
        sender = self.make_sender(keeper, client, settings, clock)
        async with sender.running():
            yield sender
        self.keepers.remove(keeper)
        await keeper.close()

    def keeper(self) -> LeaseKeeper:
        return LeaseKeeper(
            self.databases.worker,
            LeaseKind.SENDER,
            new_id(self.databases.clock.now()),
            LeaseSettings(),
            shards=SENDER_SHARDS,
        )

    def make_sender(
        self,
        keeper: LeaseKeeper,
        client: WebhookClient,
        settings: SenderSettings,
        clock: Clock | None = None,
    ) -> Sender:
        clock = clock or self.databases.clock
        poster = Poster(client, VAULT, clock, SenderMetrics(CollectorRegistry()))
        return Sender(self.databases.worker, keeper, poster, clock, self.wake, settings)


async def send_all(sender: Sender) -> int:
    """Steps until nothing is due any more, each time with the results committed; how many attempts that were."""
    attempts = 0
    while True:
        claimed = await sender.step()
        await sender.settled()
        if not claimed:
            # What a look a moment ago did not see yet, a discovery does.
            sender.discover_next()
            claimed = await sender.step()
            await sender.settled()
        if not claimed:
            return attempts
        attempts += claimed


def incoming(event_id: UUID, encoded: bytes, partition: int = 3) -> Incoming:
    envelope = event_pb2.Event.FromString(encoded)
    return Incoming(
        event_id,
        decode(Prefix.TENANT, envelope.tenant_id),
        envelope.subject,
        envelope.resource_id,
        envelope.resource_version,
        partition,
        envelope,
    )


@contextlib.asynccontextmanager
async def webhook_world(databases: Databases) -> AsyncIterator[WebhookWorld]:
    now = databases.clock.now()
    cause = Cause("opr_test", new_id(now))
    async with databases.worker.transaction() as tx:
        tenant = await create_tenant(tx, NewTenant("Acme", "live", "UTC"), cause, now=now)
    async with receiving() as receiver:
        yield WebhookWorld(databases, receiver, tenant.id, cause)
