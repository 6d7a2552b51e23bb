"""Making an endpoint and looking at its deliveries as a client meets them: a real server, real calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry
from tollway.webhook.v1 import webhook_service_pb2 as pb
from tollway.webhook.v1.webhook_service_pb2_grpc import (
    WebhookServiceStub,
    add_WebhookServiceServicer_to_server,
)

from billing.services import keys
from server.authentication import Authenticator
from server.house import House
from server.interceptor import Rim
from server.metrics import RpcMetrics
from server.services.webhook import WebhookServicer
from tests.conftest import Databases
from tests.webhook_world import VAULT, WebhookWorld, send_all, webhook_world


@dataclass(frozen=True, slots=True)
class Client:
    world: WebhookWorld
    stub: WebhookServiceStub
    metadata: tuple[tuple[str, str], ...]

    async def create(self, **fields: object) -> pb.CreateEndpointResponse:
        request = pb.CreateEndpointRequest(**fields)  # type: ignore[arg-type] # the test names them
        return await self.stub.CreateEndpoint(request, metadata=self.metadata)

    async def get(self, endpoint_id: str) -> pb.GetEndpointResponse:
        request = pb.GetEndpointRequest(endpoint_id=endpoint_id)
        return await self.stub.GetEndpoint(request, metadata=self.metadata)


@pytest.fixture
async def client(databases: Databases) -> AsyncIterator[Client]:
    server = grpc.aio.server(
        interceptors=[
            Rim(Authenticator(databases.worker), databases.clock, RpcMetrics(CollectorRegistry()))
        ]
    )
    house = House(databases.api, databases.worker, databases.clock, VAULT)
    add_WebhookServiceServicer_to_server(WebhookServicer(house), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with webhook_world(databases) as world:
        draft = keys.NewKey("test", (keys.Scope.ADMIN,))
        async with databases.worker.transaction() as tx:
            _, key = await keys.create_tenant_key(
                tx, world.tenant_id, draft, world.cause, now=databases.clock.now()
            )
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Client(world, WebhookServiceStub(channel), (("authorization", f"Bearer {key}"),))
    await server.stop(None)


async def test_an_endpoint_made_by_a_client_gets_events_that_its_secret_verifies(
    client: Client,
) -> None:
    world = client.world
    made = await client.create(url=world.receiver.url("/hook"), subjects=["customer.*"])
    assert made.endpoint.status == pb.ENDPOINT_STATUS_ENABLED
    world.receiver.secrets["/hook"] = made.secret
    await world.deliverable(3)
    before = (await client.get(made.endpoint.id)).deliveries
    assert (before.matched, before.pending, before.delivered) == (3, 3, 0)
    async with world.sender() as sender:
        await send_all(sender)
    got = await client.get(made.endpoint.id)
    assert got.endpoint == made.endpoint
    assert (got.deliveries.matched, got.deliveries.delivered, got.deliveries.dead) == (3, 3, 0)
    assert world.receiver.verified == 3


async def test_the_same_request_id_gives_the_same_secret_again_and_it_is_stored_encrypted(
    client: Client,
) -> None:
    first = await client.create(request_id="once", url="https://example.com/")
    assert await client.create(request_id="once", url="https://example.com/") == first
    assert first.endpoint.subjects == ["*"]
    [stored] = await client.world.rows("SELECT answer, encrypted FROM idempotent_requests")
    assert stored["encrypted"]
    assert first.secret.encode() not in stored["answer"]
    assert len(await client.world.rows("SELECT 1 FROM webhooks")) == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"url": "http://example.com/"}, "URL_NOT_ALLOWED"),
        ({"url": "https://example.com/", "subjects": ["Invoice"]}, "SUBJECT_INVALID"),
    ],
)
async def test_what_cannot_be_an_endpoint_is_refused(
    client: Client, fields: dict[str, object], reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.create(**fields)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = dict(refused.value.trailing_metadata() or ())["grpc-status-details-bin"]
    assert reason.encode() in bytes(details)


async def test_an_unknown_endpoint_is_not_found(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.get("whe_01h455vb4pex5vsknk084sn02q")
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
