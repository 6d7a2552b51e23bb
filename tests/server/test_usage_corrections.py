"""Records are corrected, voided and looked at as a client does it: a real server, real calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc.error_details_pb2 import ErrorInfo
from tollway.usage.v1 import usage_service_pb2 as usage
from tollway.usage.v1.usage_service_pb2_grpc import UsageServiceStub

from billing.domain.ids import Prefix, encode
from cli.client import error_detail
from tests.conftest import Databases
from tests.server.test_usage_calls import stamp
from tests.services.usage_server import Client, usage_server
from tests.services.usage_world import World, make_world

DAY = timedelta(days=1)


@pytest.fixture
async def world(databases: Databases) -> World:
    return await make_world(databases)


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with usage_server(world) as client:
        yield client


async def amend(client: Client, key: str, **fields: Any) -> usage.RecordedUsage:
    mask = [name for name in fields if name not in ("note", "allow_backfill", "request_id")]
    request = usage.AmendUsageRequest(
        idempotency_key=key, update_mask=FieldMask(paths=mask), **fields
    )
    answer = await UsageServiceStub(client.channel).AmendUsage(request, metadata=client.metadata)
    return answer.record


async def void(client: Client, key: str, **fields: Any) -> usage.RecordedUsage:
    request = usage.VoidUsageRequest(idempotency_key=key, **fields)
    answer = await UsageServiceStub(client.channel).VoidUsage(request, metadata=client.metadata)
    return answer.record


async def get(client: Client, key: str) -> usage.GetUsageRecordResponse:
    request = usage.GetUsageRecordRequest(idempotency_key=key)
    return await UsageServiceStub(client.channel).GetUsageRecord(request, metadata=client.metadata)


async def reason_of(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    info = error_detail(refused.value, ErrorInfo)
    assert info is not None
    return info.reason


async def test_a_record_is_corrected_and_every_revision_is_kept(
    world: World, client: Client
) -> None:
    sub = await world.served()
    await world.record({"key": "a", "quantity": "5", "properties": {"route": "EWR"}})
    await world.fold()
    made = await amend(client, "a", quantity="7.50", note="read again")
    assert (made.revision, made.state, made.note) == (1, usage.USAGE_STATE_PENDING, "read again")
    assert (await get(client, "a")).record.quantity == "5"
    assert await world.fold() == set()
    answer = await get(client, "a")
    assert (answer.record.quantity, dict(answer.record.properties)) == ("7.5", {"route": "EWR"})
    assert answer.record.subscription_id == world.subscription_text(sub)
    assert [one.state for one in answer.revisions] == [
        usage.USAGE_STATE_SUPERSEDED,
        usage.USAGE_STATE_ASSIGNED,
    ]
    assert {one.idempotency_key for one in answer.revisions} == {"a"}
    assert answer.revisions[0].batch_id != answer.revisions[1].batch_id


async def test_a_voided_record_does_not_count_and_cannot_be_corrected(
    world: World, client: Client
) -> None:
    await world.served()
    await world.record({"key": "a"})
    await world.fold()
    assert (await void(client, "a", note="twice")).revision == 1
    assert (await void(client, "a")).revision == 1
    await world.fold()
    assert (await get(client, "a")).record.state == usage.USAGE_STATE_VOIDED
    assert await reason_of(amend(client, "a", quantity="2")) == "USAGE_RECORD_VOIDED"
    again = await world.record({"key": "a"})
    assert again.verdicts[0].outcome == "DUPLICATE"


async def test_an_amendment_that_changes_nothing_makes_no_revision(
    world: World, client: Client
) -> None:
    await world.record({"key": "a", "quantity": "5", "properties": {"x": "1", "y": "2"}})
    same = {"quantity": "5.00", "timestamp": stamp(world.now), "properties": {"y": "2", "x": "1"}}
    assert (await amend(client, "a", **same)).revision == 0
    assert await world.value("SELECT count(*) FROM usage_records") == 1
    assert len(await world.reported()) == 1


async def test_a_repeated_request_gets_the_first_answer(world: World, client: Client) -> None:
    await world.record({"key": "a", "quantity": "5"})
    first = await amend(client, "a", quantity="6", request_id="once")
    await amend(client, "a", quantity="7")
    assert await amend(client, "a", quantity="6", request_id="once") == first
    assert await world.value("SELECT max(revision) FROM usage_records") == 2


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"quantity": "-1"}, "USAGE_AMENDMENT_INVALID"),
        ({"quantity": ""}, "USAGE_AMENDMENT_INVALID"),
        ({"subscription_id": encode(Prefix.SUBSCRIPTION, UUID(int=7))}, ""),
        ({"properties": {"k": "v" * 257}}, "USAGE_AMENDMENT_INVALID"),
        ({}, "INVALID_ARGUMENT"),
        ({"meter_key": "other"}, "INVALID_ARGUMENT"),
    ],
)
async def test_what_would_not_be_accepted_is_refused(
    world: World, client: Client, fields: dict[str, Any], reason: str
) -> None:
    await world.record({"key": "a"})
    mask = FieldMask(paths=list(fields))
    request = usage.AmendUsageRequest(idempotency_key="a", update_mask=mask)
    for name, value in fields.items():
        if name == "properties":
            request.properties.update(value)
        elif name != "meter_key":
            setattr(request, name, value)
    call = UsageServiceStub(client.channel).AmendUsage(request, metadata=client.metadata)
    assert await reason_of(call) == (reason or "USAGE_AMENDMENT_INVALID")
    assert await world.value("SELECT count(*) FROM usage_records") == 1


async def test_an_unknown_key_and_the_key_of_a_revision_name_no_record(
    world: World, client: Client
) -> None:
    await world.record({"key": "a"})
    await amend(client, "a", quantity="2")
    key = await world.value("SELECT idempotency_key FROM usage_records WHERE revision = 1")
    for call in (get(client, "nobody"), void(client, "nobody"), get(client, key)):
        assert await reason_of(call) == "USAGE_RECORD_NOT_FOUND"


async def test_old_records_change_only_where_it_is_said(world: World, client: Client) -> None:
    await world.record({"key": "a", "at": world.now - 50 * DAY}, allow_backfill=True)
    assert await reason_of(amend(client, "a", quantity="2")) == "TIMESTAMP_TOO_OLD"
    assert await reason_of(void(client, "a")) == "TIMESTAMP_TOO_OLD"
    assert (await amend(client, "a", quantity="2", allow_backfill=True)).revision == 1
    await world.record({"key": "b"})
    moved = amend(client, "b", timestamp=stamp(world.now - 50 * DAY))
    assert await reason_of(moved) == "USAGE_AMENDMENT_INVALID"
    assert (await void(client, "a", allow_backfill=True)).revision == 2


async def test_a_record_has_a_bounded_number_of_revisions(world: World, client: Client) -> None:
    await world.record({"key": "a", "quantity": "0"})
    for n in range(1, 101):
        await amend(client, "a", quantity=str(n))
    assert await reason_of(amend(client, "a", quantity="101")) == "TOO_MANY_REVISIONS"
    assert (await void(client, "a")).revision == 101
