"""Load is shed before memory grows: what a full server refuses, what it still does, and how long a call may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry
from tollway.customer.v1 import customer_service_pb2 as customer_pb
from tollway.event.v1 import event_service_pb2 as event_pb

from billing.services.keys import Scope
from server.admission import MESSAGE_BYTES_MAX, Admission, AdmissionSettings, Overloaded
from server.app import ServerSettings
from server.deadlines import Deadlines, TookTooLong, Within
from server.metrics import Refusals
from tests.conftest import Databases
from tests.server.rim import (
    CREATE_CUSTOMER,
    GET_CUSTOMER,
    SETTINGS,
    Refusal,
    Rim,
    open_rim,
    read_refusal,
    until,
)
from tests.server.test_gateway import open_web

WATCH = "/tollway.event.v1.EventService/WatchEvents"
CALLS_MAX = 4
FLOOD = 200
# A connection of its own.
PRIVATE = [("grpc.use_local_subchannel_pool", 1)]
SMALL = replace(SETTINGS, admission=AdmissionSettings(CALLS_MAX, 2 * MESSAGE_BYTES_MAX, 2))


def create(external_id: str, padding: int = 0) -> bytes:
    """A request; the padding is a field that the server does not know."""
    request = customer_pb.CreateCustomerRequest(external_id=external_id, display_name="x")
    unknown = b"\xa2\x1f" + _varint(padding) + b"x" * padding if padding else b""
    return request.SerializeToString() + unknown


def _varint(number: int) -> bytes:
    rest, low = number >> 7, number & 0x7F
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


@asynccontextmanager
async def full(rim: Rim, count: int, padding: int = 0) -> AsyncIterator[Sequence[Any]]:
    """So many calls that wait for a lock inside the block; they go on behind it."""
    async with rim.owner() as owner:
        other = owner.transaction()
        await other.start()
        await owner.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
        calls = [
            asyncio.ensure_future(rim.raw(CREATE_CUSTOMER, create(f"held-{n}", padding)))
            for n in range(count)
        ]

        async def all_in_hand() -> bool:
            return rim.server.limits.admission.calls == count

        await until(all_in_hand)
        yield calls
        await other.rollback()


async def outcome(call: Any) -> Refusal | bytes:
    try:
        answer: bytes = await call
    except grpc.aio.AioRpcError as error:
        return read_refusal(error)
    return answer


async def test_a_flood_is_refused_while_health_answers_and_what_was_admitted_finishes(
    databases: Databases,
) -> None:
    async with open_rim(databases, settings=SMALL) as rim, open_web(rim) as web:
        async with full(rim, CALLS_MAX) as admitted:
            flood = (rim.raw(CREATE_CUSTOMER, create(f"flood-{n}")) for n in range(FLOOD))
            refused = await asyncio.gather(*map(outcome, flood))
            told = {(r.code, r.reason, r.retry_s) for r in refused if isinstance(r, Refusal)}
            assert told == {(grpc.StatusCode.UNAVAILABLE, "OVERLOADED", 1)}
            assert len(refused) == FLOOD
            over_http = await web.ask("GET", "/v1/customers")
            assert (over_http.status, over_http.info["reason"]) == (503, "OVERLOADED")
            assert over_http.headers["Retry-After"] == "1"
            assert await healthy(rim)
            assert rim.server.limits.admission.calls == CALLS_MAX
            assert not any(call.done() for call in admitted)
        made = [customer_pb.CreateCustomerResponse.FromString(await call) for call in admitted]
        assert [answer.customer.external_id for answer in made] == [
            f"held-{n}" for n in range(CALLS_MAX)
        ]
        await rim.customer("afterwards")
        assert (rim.server.limits.admission.calls, rim.server.limits.admission.bytes) == (0, 0)
        counted = rim.registry.get_sample_value(
            "tollway_refused_calls_total", {"reason": "OVERLOADED"}
        )
        assert counted == FLOOD + 1


async def test_what_is_in_hand_is_bounded_in_bytes_over_grpc_and_http(databases: Databases) -> None:
    large = MESSAGE_BYTES_MAX - 1000
    async with open_rim(databases, settings=SMALL) as rim, open_web(rim) as web:
        async with full(rim, 2, large) as admitted:
            refused = await outcome(rim.raw(CREATE_CUSTOMER, create("third", large)))
            assert isinstance(refused, Refusal)
            assert refused.reason == "OVERLOADED"
            body = {"external_id": "UA", "display_name": "x" * 10_000}
            answer = await web.ask("POST", "/v1/customers", body)
            assert (answer.status, answer.info["reason"]) == (503, "OVERLOADED")
        await asyncio.gather(*admitted)
        await rim.customer("afterwards")


async def test_streams_are_bounded_apart_from_calls(databases: Databases) -> None:
    async with open_rim(databases, settings=SMALL) as rim:
        stream: Any = rim.channel.unary_stream(WATCH)
        metadata = (("authorization", f"Bearer {rim.operator}"), ("tollway-tenant", rim.acme.name))
        body = event_pb.WatchEventsRequest().SerializeToString()
        open_ones = [stream(body, metadata=metadata) for _ in range(2)]
        for call in open_ones:
            await call.read()
        refused = await outcome(rim.raw(WATCH, body))
        assert isinstance(refused, Refusal)
        assert refused.reason == "OVERLOADED"
        await rim.customer("meanwhile")
        open_ones[0].cancel()

        async def one_left() -> bool:
            return rim.server.limits.admission.streams == 1

        await until(one_left)
        assert await rim.raw(WATCH, body)
        open_ones[1].cancel()


async def test_a_call_and_a_stream_without_a_deadline_end_all_the_same(
    databases: Databases,
) -> None:
    quick = replace(SETTINGS, deadlines=Deadlines(call_s_max=0.2, stream_s_max=0.2))
    async with open_rim(databases, settings=quick) as rim, open_web(rim) as web:
        async with full(rim, 1) as calls:
            refused = await outcome(calls[0])
            assert isinstance(refused, Refusal)
            assert (refused.code, refused.reason, refused.retry_s) == (
                grpc.StatusCode.UNAVAILABLE,
                "DEADLINE_PASSED",
                1,
            )
            body = customer_pb.GetCustomerRequest(external_id="UA").SerializeToString()
            longer = await outcome(rim.raw(GET_CUSTOMER, body, timeout=60))
            assert isinstance(longer, Refusal)
            assert longer.reason == "DEADLINE_PASSED"
            over_http = await web.ask("GET", "/v1/customers")
            assert (over_http.status, over_http.info["reason"]) == (504, "DEADLINE_PASSED")
        stream: Any = rim.channel.unary_stream(WATCH)
        metadata = (("authorization", f"Bearer {rim.operator}"), ("tollway-tenant", rim.acme.name))
        watch = stream(event_pb.WatchEventsRequest().SerializeToString(), metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in watch:
                pass
        assert read_refusal(raised.value).reason == "DEADLINE_PASSED"
        assert (rim.server.limits.admission.calls, rim.server.limits.admission.streams) == (0, 0)


async def test_a_block_that_is_cancelled_by_somebody_else_stays_cancelled() -> None:
    async def wait(seconds: float | None) -> None:
        with Within(seconds):
            await asyncio.Event().wait()

    for seconds in (None, 60.0):
        task = asyncio.create_task(wait(seconds))
        await asyncio.sleep(0)  # it waits now
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    with pytest.raises(TookTooLong):
        await wait(0.0)
    with Within(60.0), pytest.raises(TimeoutError):
        raise TimeoutError


async def test_calls_that_are_taken_back_at_once_harm_nobody_else_and_leave_nothing_in_hand(
    rim: Rim,
) -> None:
    body = customer_pb.GetCustomerRequest(external_id="UA").SerializeToString()
    metadata = (("authorization", f"Bearer {rim.acme.keys[Scope.READ]}"),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rim.server.port}", PRIVATE) as channel:
        get: Any = channel.unary_unary(GET_CUSTOMER)
        for _ in range(20):
            calls = [get(body, metadata=metadata) for _ in range(100)]
            await asyncio.sleep(0)  # the calls are on their way
            for call in calls:
                call.cancel()
        await rim.customer("meanwhile")

        async def nothing_in_hand() -> bool:
            return rim.server.limits.admission.calls == 0

        await until(nothing_in_hand)


def test_a_request_larger_than_the_bound_is_admitted_alone() -> None:
    registry = CollectorRegistry()
    settings = AdmissionSettings(calls_max=10, bytes_max=5)
    admission = Admission(settings, registry, Refusals(registry))
    with admission.held(9), pytest.raises(Overloaded), admission.held(1):
        pass
    with admission.held(2) as held:
        held.grow(3)
        with pytest.raises(Overloaded):
            held.grow(1)
    assert (admission.calls, admission.bytes) == (0, 0)


async def healthy(rim: Rim) -> bool:
    check: Any = rim.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    answer = await check(b"", timeout=10)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def test_the_defaults_leave_room_for_health_beside_what_is_admitted() -> None:
    settings = ServerSettings().admission
    assert settings.rpcs_max > settings.calls_max + settings.streams_max
