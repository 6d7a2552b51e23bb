"""Recording usage and looking at its charges as a client meets them: a real server, real calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from tollway.error.v1 import error_reason_pb2 as reasons
from tollway.rating.v1 import rating_service_pb2 as rating
from tollway.rating.v1.rating_service_pb2_grpc import RatingServiceStub
from tollway.usage.v1 import usage_service_pb2 as usage
from tollway.usage.v1.usage_service_pb2_grpc import UsageServiceStub

from billing.services.rating import RatingSettings
from tests.conftest import Databases
from tests.services.usage_server import Client, usage_server
from tests.services.usage_world import World, make_world
from workers.rating import RatingWorker


@pytest.fixture
async def world(databases: Databases) -> World:
    return await make_world(databases)


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with usage_server(world) as client:
        yield client


def stamp(instant: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(instant)
    return made


def record(key: str, at: Timestamp | None, **fields: Any) -> usage.UsageRecord:
    given = {"meter_key": "minutes", "external_customer_id": "UA", "quantity": "1", **fields}
    return usage.UsageRecord(idempotency_key=key, timestamp=at, **given)


async def test_each_record_is_answered_in_its_place(world: World, client: Client) -> None:
    now = stamp(world.now)
    early = Timestamp(seconds=now.seconds - 1, nanos=1_000_000_000)
    request = usage.BatchRecordUsageRequest(
        records=[
            record("a", now, quantity="12.5", properties={"route": "EWR"}),
            record("b", None),
            record("c", early),
            record("a", now, quantity="12.50", properties={"route": "EWR"}),
            record("a", now, quantity="12.6", properties={"route": "EWR"}),
            record("d", now, meter_key="other"),
            record("e", Timestamp(), quantity="1"),
        ]
    )
    stub = UsageServiceStub(client.channel)
    answer = await stub.BatchRecordUsage(request, metadata=client.metadata)
    found = [(result.outcome, result.reason, bool(result.message)) for result in answer.results]
    rejected, unspecified = usage.RECORD_OUTCOME_REJECTED, reasons.ERROR_REASON_UNSPECIFIED
    assert found == [
        (usage.RECORD_OUTCOME_ACCEPTED, unspecified, False),
        (rejected, reasons.ERROR_REASON_TIMESTAMP_INVALID, True),
        (rejected, reasons.ERROR_REASON_TIMESTAMP_INVALID, True),
        (usage.RECORD_OUTCOME_DUPLICATE, unspecified, False),
        (usage.RECORD_OUTCOME_CONFLICT, reasons.ERROR_REASON_IDEMPOTENCY_KEY_REUSED, True),
        (rejected, reasons.ERROR_REASON_METER_NOT_FOUND, True),
        (rejected, reasons.ERROR_REASON_TIMESTAMP_TOO_OLD, True),
    ]
    counts = (answer.accepted, answer.duplicate, answer.conflict, answer.rejected)
    assert counts == (1, 1, 1, 4)
    (event,) = await world.reported()
    assert answer.batch_id == event.resource
    assert await world.value("SELECT properties->>'route' FROM usage_records") == "EWR"


async def test_nanoseconds_below_a_microsecond_do_not_make_another_record(
    world: World, client: Client
) -> None:
    at = stamp(world.now)
    finer = Timestamp(seconds=at.seconds, nanos=at.nanos + 999)
    stub = UsageServiceStub(client.channel)
    for instant, accepted in ((at, 1), (finer, 0)):
        request = usage.BatchRecordUsageRequest(records=[record("a", instant)])
        answer = await stub.BatchRecordUsage(request, metadata=client.metadata)
        assert (answer.accepted, answer.duplicate) == (accepted, 1 - accepted)


@pytest.mark.parametrize("size", [0, 1001])
async def test_an_empty_or_too_large_batch_is_refused(
    world: World, client: Client, size: int
) -> None:
    request = usage.BatchRecordUsageRequest(
        records=[record(str(n), stamp(world.now)) for n in range(size)]
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await UsageServiceStub(client.channel).BatchRecordUsage(request, metadata=client.metadata)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_running_charges_of_a_subscription_are_shown(
    world: World, client: Client
) -> None:
    sub = await world.served()
    await world.record(
        {"key": "a", "quantity": "100.50"},
        {"key": "b", "quantity": "1", "at": world.now - timedelta(days=20)},
    )
    await world.fold()
    settings = RatingSettings()
    await RatingWorker(world.worker, world.databases.clock, settings).step()
    request = rating.GetChargesRequest(subscription_id=world.subscription_text(sub))
    stub = RatingServiceStub(client.channel)
    answer = await stub.GetCharges(request, metadata=client.metadata)
    assert [(one.quantity, one.amount.minor_units) for one in answer.charges] == [
        ("1", 10),
        ("100.5", 1005),
    ]
    assert answer.failure == ""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        unknown = rating.GetChargesRequest(external_subscription_id="nobody's")
        await stub.GetCharges(unknown, metadata=client.metadata)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
