"""Making an endpoint and looking at its deliveries as a client meets them: a real server, real calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest
from tollway.webhook.v1 import webhook_service_pb2 as pb
from tollway.webhook.v1.webhook_service_pb2_grpc import (
    WebhookServiceStub,
    add_WebhookServiceServicer_to_server,
)

from billing.services import keys
from server.house import House
from server.services.webhook import WebhookServicer
from tests.conftest import Databases
from tests.server.rim import interceptor
from tests.webhook_world import LOOPBACK, VAULT, WebhookWorld, send_all, webhook_world


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
    server = grpc.aio.server(interceptors=[interceptor(databases)])
    house = House(databases.api, databases.worker, databases.clock, VAULT, LOOPBACK)
    add_WebhookServiceServicer_to_server(WebhookServicer(house), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with webhook_world(databases) as world:
        draft = keys.NewKey("test", (keys.Scope.ADMIN,))
        async with databases.worker.transaction() as tx:
            _, key = await keys.create_key(
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


async def test_everything_that_can_be_changed_can_be_given_at_the_start(client: Client) -> None:
    given = {
        "url": "https://example.com/hook",
        "subjects": ["invoice.*", "custom.order.paid"],
        "description": "books",
        "headers": {"x-team": "billing"},
        "metadata": {"a": "b"},
        "payload": pb.PAYLOAD_STYLE_THIN,
        "rate_per_second": 20,
    }
    made = (await client.create(**given)).endpoint
    assert {name: getattr(made, name) for name in given} == given
    assert made.schema_version == 1
    assert (await client.get(made.id)).endpoint == made


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"url": "http://example.com/"}, "URL_NOT_ALLOWED"),
        ({"url": "https://example.com/", "subjects": ["Invoice"]}, "SUBJECT_INVALID"),
        ({"url": "https://example.com/", "subjects": ["invoice.made"]}, "SUBJECT_INVALID"),
        ({"url": "https://10.0.0.1/"}, "URL_NOT_ALLOWED"),
        ({"url": "https://example.com/", "headers": {"Host": "x"}}, "HEADER_NOT_ALLOWED"),
        ({"url": "https://example.com/", "schema_version": 99}, "SCHEMA_VERSION_UNKNOWN"),
        ({"url": "https://example.com/", "rate_per_second": -1}, "INVALID_ARGUMENT"),
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


async def test_an_endpoint_is_changed_by_its_mask_alone_and_listed_by_pages(client: Client) -> None:
    made = [
        (await client.create(url=f"https://example.com/{n}", description="d")).endpoint
        for n in range(3)
    ]
    request = pb.UpdateEndpointRequest(
        endpoint_id=made[0].id,
        url="https://example.com/new",
        description="not in the mask",
        headers={"X-Team": "a"},
        payload=pb.PAYLOAD_STYLE_THIN,
        etag=made[0].etag,
    )
    request.update_mask.paths.extend(["url", "headers", "payload"])
    changed = (await client.stub.UpdateEndpoint(request, metadata=client.metadata)).endpoint
    assert (changed.url, changed.description) == ("https://example.com/new", "d")
    assert (dict(changed.headers), changed.payload) == ({"x-team": "a"}, pb.PAYLOAD_STYLE_THIN)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.stub.UpdateEndpoint(request, metadata=client.metadata)
    assert refused.value.code() == grpc.StatusCode.ABORTED
    first = await client.stub.ListEndpoints(
        pb.ListEndpointsRequest(page_size=2), metadata=client.metadata
    )
    rest = await client.stub.ListEndpoints(
        pb.ListEndpointsRequest(page_size=2, page_token=first.next_page_token),
        metadata=client.metadata,
    )
    assert [e.id for e in (*first.endpoints, *rest.endpoints)] == [e.id for e in reversed(made)]
    assert not rest.next_page_token


@pytest.mark.parametrize("paths", [[], ["status"], ["payload"]])
async def test_a_mask_that_names_nothing_or_what_cannot_be_changed_is_refused(
    client: Client, paths: list[str]
) -> None:
    made = await client.create(url="https://example.com/")
    request = pb.UpdateEndpointRequest(endpoint_id=made.endpoint.id)
    request.update_mask.paths.extend(paths)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.stub.UpdateEndpoint(request, metadata=client.metadata)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_endpoint_lives_through_all_its_calls(client: Client) -> None:
    made = await client.create(url="https://example.com/")
    named, metadata, stub = {"endpoint_id": made.endpoint.id}, client.metadata, client.stub
    off = await stub.DisableEndpoint(pb.DisableEndpointRequest(**named), metadata=metadata)
    assert off.endpoint.disabled_reason == "tenant"
    on = await stub.EnableEndpoint(pb.EnableEndpointRequest(**named), metadata=metadata)
    assert on.endpoint.status == pb.ENDPOINT_STATUS_ENABLED
    ping = await stub.PingEndpoint(pb.PingEndpointRequest(**named), metadata=metadata)
    assert ping.event_id.startswith("evt_")
    rotated = await stub.RotateEndpointSecret(
        pb.RotateEndpointSecretRequest(**named), metadata=metadata
    )
    assert rotated.secret != made.secret
    listed = await stub.ListEndpointSecrets(
        pb.ListEndpointSecretsRequest(endpoint_id=made.endpoint.id), metadata=metadata
    )
    assert [s.HasField("expire_time") for s in listed.secrets] == [False, True]
    assert listed.secrets[1].expire_time == rotated.earlier_end_time
    await stub.DeleteEndpoint(pb.DeleteEndpointRequest(**named), metadata=metadata)
    assert (await client.get(made.endpoint.id)).endpoint.status == pb.ENDPOINT_STATUS_DELETED
