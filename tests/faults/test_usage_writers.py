"""Usage path: many writers of the same keys, and a server that dies between its commit and its answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from tollway.usage.v1 import usage_service_pb2 as usage
from tollway.usage.v1.usage_events_pb2 import UsageReported
from tollway.usage.v1.usage_service_pb2_grpc import UsageServiceStub

from billing.services import keys
from billing.services.actor import Cause
from billing.services.usage_batch import Outcome
from tests.conftest import LONG, Databases
from tests.server.test_usage_calls import record, stamp
from tests.services.usage_server import usage_server
from tests.services.usage_world import World, make_world

WRITERS = 50
KEYS = 200 if LONG else 40
DEATHS = 10 if LONG else 3


@pytest.fixture
async def world(databases: Databases) -> World:
    return await make_world(databases)


async def told(world: World) -> int:
    """How many records the events count."""
    payloads = [event.payload(UsageReported) for event in await world.reported()]
    return sum(payload.record_count for payload in payloads)


async def test_fifty_writers_of_the_same_keys_in_opposite_orders_record_each_once(
    world: World,
) -> None:
    """By batches: which of two twins is first the unique key decides, and sorted inserts never deadlock."""
    names = [f"k{n}" for n in range(KEYS)]

    async def write(writer: int) -> int:
        order = names if writer % 2 else names[::-1]
        answer = await world.record(*({"key": name} for name in order))
        assert answer.count(Outcome.ACCEPTED) + answer.count(Outcome.DUPLICATE) == KEYS
        return answer.count(Outcome.ACCEPTED)

    accepted = await asyncio.gather(*map(write, range(WRITERS)))
    assert sum(accepted) == KEYS
    assert await world.value("SELECT count(*) FROM usage_records") == KEYS
    assert await told(world) == KEYS


async def test_fifty_callers_of_the_same_keys_one_by_one_record_each_once(world: World) -> None:
    async with usage_server(world) as client:
        stub, at = UsageServiceStub(client.channel), stamp(world.now)

        async def write(caller: int) -> int:
            order = range(10) if caller % 2 else range(9, -1, -1)
            accepted = 0
            for n in order:
                request = usage.RecordUsageRequest(record=record(f"k{n}", at))
                answer = await stub.RecordUsage(request, metadata=client.metadata)
                accepted += answer.result.outcome == usage.RECORD_OUTCOME_ACCEPTED
            return accepted

        assert sum(await asyncio.gather(*map(write, range(WRITERS)))) == 10
    assert await told(world) == 10


@asynccontextmanager
async def mortal_server(world: World, lives: int) -> AsyncIterator[grpc.aio.Channel]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.usage_process", world.databases.url, str(lives)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
        assert await process.wait() == -9, "it died by itself"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_server_killed_between_commit_and_answer_counts_nothing_twice(
    world: World,
) -> None:
    """The caller hears nothing, sends everything again, to the next server, and is told what was recorded."""
    async with world.worker.transaction() as tx:
        draft = keys.NewKey("test", (keys.Scope.WRITE,))
        cause = Cause("opr_test", world.new())
        _, key = await keys.create_key(tx, world.tenant_id, draft, cause, now=world.now)
    metadata = (("authorization", f"Bearer {key}"),)
    at = stamp(world.now)
    batches = [
        usage.BatchRecordUsageRequest(records=[record(f"{n}-{m}", at) for m in range(20)])
        for n in range(DEATHS * 2)
    ]
    pending = list(batches)
    for _ in range(DEATHS):
        async with mortal_server(world, 2) as channel:
            stub = UsageServiceStub(channel)
            await stub.BatchRecordUsage(pending.pop(0), metadata=metadata, timeout=20)
            with pytest.raises(grpc.aio.AioRpcError) as unheard:
                await stub.BatchRecordUsage(pending[0], metadata=metadata, timeout=20)
            assert unheard.value.code() is grpc.StatusCode.UNAVAILABLE
    recorded = await world.value("SELECT count(*) FROM usage_records")
    heard = (len(batches) - len(pending)) * 20
    assert recorded == heard + 20, "the last was committed, and its caller never heard of it"
    async with usage_server(world) as client:
        stub = UsageServiceStub(client.channel)
        answers = [await stub.BatchRecordUsage(b, metadata=client.metadata) for b in batches]
    assert sum(answer.accepted + answer.duplicate for answer in answers) == len(batches) * 20
    assert await world.value("SELECT count(*) FROM usage_records") == len(batches) * 20
    assert await told(world) == len(batches) * 20
