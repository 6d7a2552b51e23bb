"""What every gRPC tool asks: reflection, health, channelz; and how a server says goodbye."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from billing.domain.ids import Prefix, encode
from billing.services.keys import Scope
from server.registry import PAYLOADS, SERVICES
from server.standard import CHANNELZ, HEALTH, REFLECTION_V1, REFLECTION_V1ALPHA
from tests.server.rim import Rim
from tools import grpcurl

VERSIONS = (REFLECTION_V1, REFLECTION_V1ALPHA)
GRPCURL_TIMEOUT_S = 30


@pytest.mark.parametrize("version", VERSIONS)
async def test_reflection_lists_and_describes_every_service(rim: Rim, version: str) -> None:
    listed = await _reflect(rim, version, list_services="")
    names = [service.name for service in listed.list_services_response.service]
    assert sorted(names) == sorted([*SERVICES, HEALTH, CHANNELZ, *VERSIONS])
    for name in names:
        described = await _reflect(rim, version, file_containing_symbol=name)
        assert described.file_descriptor_response.file_descriptor_proto, name


async def test_reflection_describes_every_payload_of_an_event(rim: Rim) -> None:
    for module in PAYLOADS:
        for message in module.DESCRIPTOR.message_types_by_name.values():
            described = await _reflect(rim, REFLECTION_V1, file_containing_symbol=message.full_name)
            assert described.file_descriptor_response.file_descriptor_proto, message.full_name


async def test_health_answers_for_the_process_and_for_each_service(rim: Rim) -> None:
    for name in ("", *SERVICES):
        assert await _health(rim, name) == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await _health(rim, "tollway.nothing.v1.NothingService")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_stop_says_not_serving_first_and_lets_running_calls_finish(rim: Rim) -> None:
    watch = _watch(rim, "tollway.customer.v1.CustomerService")
    states = _states(watch)
    assert await anext(states) == health_pb2.HealthCheckResponse.SERVING

    async with rim.owner() as owner:
        other = owner.transaction()
        await other.start()
        await owner.execute(
            "INSERT INTO customers (tenant_id, id, external_id, display_name, time_zone, created_at)"
            " VALUES ($1, gen_random_uuid(), 'UA', 'x', 'UTC', now())",
            rim.acme.id,
        )
        running = asyncio.create_task(rim.customer("UA"))
        await rim.someone_waits_for_a_lock()
        stop = asyncio.create_task(rim.server.stop())
        assert await anext(states) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not running.done()
        assert not stop.done()
        await other.rollback()
    assert (await running).external_id == "UA"
    watch.cancel()
    await stop
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await rim.customer("later", timeout=5)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_grpcurl_lists_describes_and_prints_the_payload_of_an_event(rim: Rim) -> None:
    if (reason := grpcurl.why_not()) is not None:
        pytest.skip(reason)
    listed = (await _grpcurl(rim, "list")).split()
    assert sorted(listed) == sorted([*SERVICES, HEALTH, CHANNELZ, *VERSIONS])
    described = await _grpcurl(rim, "describe")
    assert all(f"{name} is a service:" in described for name in listed)
    message = await _grpcurl(rim, "describe", "tollway.customer.v1.CreateCustomerRequest")
    assert "external_id" in message

    made = json.loads(
        await _grpcurl(
            rim,
            "tollway.customer.v1.CustomerService/CreateCustomer",
            body={"external_id": "UA", "display_name": "United"},
        )
    )["customer"]
    event_id = await rim.value("SELECT id FROM billing_events WHERE subject = 'customer.created'")
    told = json.loads(
        await _grpcurl(
            rim,
            "tollway.event.v1.EventService/GetEvent",
            body={"event_id": encode(Prefix.EVENT, event_id)},
        )
    )["event"]
    assert told["data"] == {
        "@type": "type.googleapis.com/tollway.customer.v1.CustomerCreated",
        "customerId": made["id"],
        "externalId": "UA",
    }


async def _reflect(rim: Rim, version: str, **asked: Any) -> Any:
    call: Any = rim.channel.stream_stream(
        f"/{version}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    async for answer in call(iter([reflection_pb2.ServerReflectionRequest(**asked)])):
        return answer
    raise AssertionError("no answer")


async def _health(rim: Rim, service: str) -> Any:
    check: Any = rim.channel.unary_unary(
        f"/{HEALTH}/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return (await check(health_pb2.HealthCheckRequest(service=service))).status


def _watch(rim: Rim, service: str) -> Any:
    watch: Any = rim.channel.unary_stream(
        f"/{HEALTH}/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return watch(health_pb2.HealthCheckRequest(service=service))


async def _states(watch: Any) -> AsyncIterator[int]:
    async for answer in watch:
        yield answer.status


async def _grpcurl(rim: Rim, *words: str, body: object = None) -> str:
    options = ["-plaintext", "-H", f"authorization: Bearer {rim.acme.keys[Scope.ADMIN]}"]
    if body is not None:
        options += ["-d", json.dumps(body)]
    process = await asyncio.create_subprocess_exec(
        grpcurl.PROGRAM,
        *options,
        f"127.0.0.1:{rim.server.port}",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(GRPCURL_TIMEOUT_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()
