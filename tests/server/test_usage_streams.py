"""One record at a time, and batches in a stream: a real server, real calls, many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import grpc
import grpc.aio
import pytest
from tollway.error.v1 import error_reason_pb2 as reasons
from tollway.usage.v1 import usage_service_pb2 as usage
from tollway.usage.v1.usage_service_pb2_grpc import UsageServiceStub

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Database
from billing.services.actor import Cause
from billing.services.usage_batch import Outcome, UsageBatch
from billing.services.usage_group_commit import GroupCommit, Share
from tests.conftest import Databases
from tests.server.test_usage_calls import record, stamp
from tests.services.usage_server import Client, usage_server
from tests.services.usage_world import World, make_world

CALLS = 64


@pytest.fixture
async def world(databases: Databases) -> World:
    return await make_world(databases)


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with usage_server(world) as client:
        yield client


async def one(
    client: Client, key: str, at: Any, *metadata: tuple[str, str], **fields: Any
) -> usage.RecordUsageResponse:
    request = usage.RecordUsageRequest(record=record(key, at, **fields))
    stub = UsageServiceStub(client.channel)
    return await stub.RecordUsage(request, metadata=(*client.metadata, *metadata))


async def test_calls_that_wait_together_share_a_transaction_and_a_bad_one_fails_alone(
    world: World, client: Client
) -> None:
    at = stamp(world.now)
    await one(client, "first", at)
    answers = await asyncio.gather(
        *(one(client, f"k{n}", at) for n in range(CALLS)),
        one(client, "bad", at, quantity="-1"),
        one(client, "first", at),
        one(client, "first", at, quantity="2"),
    )
    assert [one.result.outcome for one in answers[-3:]] == [
        usage.RECORD_OUTCOME_REJECTED,
        usage.RECORD_OUTCOME_DUPLICATE,
        usage.RECORD_OUTCOME_CONFLICT,
    ]
    assert answers[-3].result.reason == reasons.ERROR_REASON_QUANTITY_INVALID
    assert {one.result.outcome for one in answers[:CALLS]} == {usage.RECORD_OUTCOME_ACCEPTED}
    batches = {one.batch_id for one in answers[:CALLS]}
    assert all(one.batch_id == "" for one in answers[-3:])
    assert await world.value("SELECT count(*) FROM usage_records") == CALLS + 1
    told = await world.reported()
    assert {event.resource for event in told[1:]} == batches
    # One drainer: far fewer commits than calls, with whatever speed they arrived.
    assert len(batches) < CALLS / 2


async def test_calls_with_a_correlation_of_their_own_keep_it(world: World, client: Client) -> None:
    at = stamp(world.now)
    mine, theirs = (encode(Prefix.CORRELATION, world.new()) for _ in range(2))
    await asyncio.gather(
        one(client, "a", at, ("tollway-correlation-id", mine)),
        one(client, "b", at, ("tollway-correlation-id", theirs)),
        one(client, "c", at),
    )
    told = {event.envelope.correlation_id for event in await world.reported()}
    assert {mine, theirs} < told
    assert len(told) == 3


async def test_a_record_that_was_not_given_is_refused(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await UsageServiceStub(client.channel).RecordUsage(
            usage.RecordUsageRequest(), metadata=client.metadata
        )
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_record_that_the_database_refuses_fails_alone(world: World) -> None:
    """Whatever the checks have overlooked: here, a quantity that they were not asked about."""
    group = GroupCommit(world.databases.api, world.databases.clock, _unchecked(world))
    share = Share("key_test", "", False)
    caller = _Caller("", Cause("key_test", world.new()))
    answers = await asyncio.gather(
        *(group.record(world.tenant_id, {"key": key}, share, caller) for key in ("a", "bad", "b")),
        return_exceptions=True,
    )
    assert isinstance(answers[1], asyncpg.DataError)
    assert [getattr(answers[n], "verdict", "failed") for n in (0, 2)] == [None, None]
    assert await world.value("SELECT count(*) FROM usage_records") == 2


@dataclass(frozen=True, slots=True)
class _Caller:
    traceparent: str
    cause: Cause


def _unchecked(world: World) -> Any:
    def to_batch(records: Any, allow_backfill: bool) -> UsageBatch:
        batch = world.batch(*records, allow_backfill=allow_backfill)
        # A lone surrogate: no text for PostgreSQL, and nothing that a client could send.
        keys = ["\ud800" if key == "bad" else key for key in batch.idempotency_keys]
        return UsageBatch(
            keys,
            batch.meter_keys,
            batch.customer_ids,
            batch.external_customer_ids,
            batch.used_at_us,
            batch.quantities,
        )

    return to_batch


async def test_a_caller_who_leaves_takes_no_other_with_it(world: World, client: Client) -> None:
    at = stamp(world.now)
    leaving = [asyncio.ensure_future(one(client, f"gone{n}", at)) for n in range(5)]
    staying = [asyncio.ensure_future(one(client, f"here{n}", at)) for n in range(5)]
    await asyncio.sleep(0)
    for call in leaving:
        call.cancel()
    answers = await asyncio.gather(*staying)
    assert {answer.result.outcome for answer in answers} == {usage.RECORD_OUTCOME_ACCEPTED}


async def test_a_stream_answers_each_batch_in_order_and_goes_on_after_a_bad_record(
    world: World, client: Client
) -> None:
    at = stamp(world.now)
    batches = [
        [record("a", at), record("b", at, quantity="x")],
        [record("a", at), record("a", at, quantity="3"), record("c", at)],
    ]
    call: Any = UsageServiceStub(client.channel).StreamUsage(metadata=client.metadata)
    answers = []
    for records in batches:
        await call.write(usage.StreamUsageRequest(records=records))
        answers.append(await call.read())
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert [(a.accepted, a.duplicate, a.conflict, a.rejected) for a in answers] == [
        (1, 0, 0, 1),
        (1, 1, 1, 0),
    ]
    batch_ids = [decode(Prefix.USAGE_BATCH, answer.batch_id) for answer in answers]
    assert await world.value("SELECT count(DISTINCT batch_id) FROM usage_records") == 2
    assert {event.resource for event in await world.reported()} == {
        encode(Prefix.USAGE_BATCH, batch_id) for batch_id in batch_ids
    }


async def test_a_stream_that_is_sent_all_at_once_is_answered_batch_by_batch(
    world: World, client: Client
) -> None:
    at = stamp(world.now)

    async def batches() -> AsyncIterator[usage.StreamUsageRequest]:
        for n in range(20):
            yield usage.StreamUsageRequest(records=[record(f"{n}-{m}", at) for m in range(50)])

    call: Any = UsageServiceStub(client.channel).StreamUsage(batches(), metadata=client.metadata)
    assert [answer.accepted async for answer in call] == [50] * 20
    assert await world.value("SELECT count(*) FROM usage_records") == 1000


async def test_a_batch_that_cannot_be_taken_ends_the_stream_and_what_was_answered_stands(
    world: World, client: Client
) -> None:
    call: Any = UsageServiceStub(client.channel).StreamUsage(metadata=client.metadata)
    await call.write(usage.StreamUsageRequest(records=[record("a", stamp(world.now))]))
    assert (await call.read()).accepted == 1
    await call.write(usage.StreamUsageRequest())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await world.value("SELECT count(*) FROM usage_records") == 1


async def test_a_stream_of_a_key_that_may_not_write_is_refused(
    world: World, client: Client
) -> None:
    call: Any = UsageServiceStub(client.channel).StreamUsage(
        metadata=(("authorization", "Bearer nobody's"),)
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.write(usage.StreamUsageRequest(records=[record("a", stamp(world.now))]))
        await call.read()
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_the_drainer_goes_home_when_nobody_waits(world: World) -> None:
    database: Database = world.databases.api
    group: GroupCommit[dict[str, str]] = GroupCommit(
        database,
        world.databases.clock,
        lambda records, allow: world.batch(*records, allow_backfill=allow),
    )
    share, caller = Share("key_test", "", False), _Caller("", Cause("key_test", world.new()))
    for key in ("a", "b"):
        answer = await group.record(world.tenant_id, {"key": key}, share, caller)
        assert answer.verdict is None
    again = await group.record(world.tenant_id, {"key": "a"}, share, caller)
    assert again.verdict is not None
    assert again.verdict.outcome is Outcome.DUPLICATE
