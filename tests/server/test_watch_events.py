"""WatchEvents through a real server: what a stream's caller gets, and how a stream ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from tollway.event.v1 import event_pb2
from tollway.event.v1 import event_service_pb2 as pb
from tollway.event.v1.event_service_pb2_grpc import EventServiceStub
from tollway.tenant.v1 import tenant_events_pb2

from billing.domain.ids import Prefix, encode
from billing.runtime.ids import new_id
from billing.services import event_feed
from billing.services.actor import Cause
from billing.services.event_feed import FeedFilter
from billing.services.events import NewEvent, emit
from billing.services.incoming import Incoming
from billing.services.keys import Scope
from server.feed import watch
from tests.server.rim import Company, Rim, read_refusal, until

METHOD = "/tollway.event.v1.EventService/WatchEvents"
PATIENCE_S = 20.0


async def feed(rim: Rim, company: Company, count: int, partition: int = 0) -> list[str]:
    """Events that a router has put into the feed."""
    now = rim.house.clock.now()
    resource = encode(Prefix.SUBSCRIPTION, new_id(now))
    cause = Cause("opr_test", new_id(now))
    events = [
        NewEvent(company.id, resource, version, tenant_events_pb2.TenantCreated(), now, cause)
        for version in range(1, count + 1)
    ]
    async with rim.databases.worker.transaction() as tx:
        ids = await emit(tx, events, now=now)
        await tx.execute(
            "INSERT INTO router_positions (partition) VALUES ($1) ON CONFLICT DO NOTHING", partition
        )
        incoming = [
            Incoming(i, company.id, "tenant.created", resource, 1, partition, None)  # type: ignore[arg-type] # the feed reads no envelope
            for i in ids
        ]
        await event_feed.append(tx, incoming, now)
    return [encode(Prefix.EVENT, identity) for identity in ids]


class Watcher:
    """A call of WatchEvents."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def next(self) -> pb.WatchEventsResponse:
        async with asyncio.timeout(PATIENCE_S):
            answer: pb.WatchEventsResponse = await self._call.read()
        assert isinstance(answer, pb.WatchEventsResponse)
        return answer

    async def ids(self, count: int) -> list[str]:
        return [(await self.next()).event.id for _ in range(count)]


@asynccontextmanager
async def watching(
    rim: Rim, request: Message | None = None, key: str = "", *, begun: bool = True
) -> AsyncIterator[Watcher]:
    """A stream, behind its first sign of life."""
    metadata = (("authorization", f"Bearer {key or rim.acme.keys[Scope.READ]}"),)
    stub: Any = EventServiceStub(rim.channel)
    call = stub.WatchEvents(request or pb.WatchEventsRequest(), metadata=metadata)
    try:
        watcher = Watcher(call)
        if begun:
            first = await watcher.next()
            assert not first.HasField("event")
            assert first.cursor
        yield watcher
    finally:
        call.cancel()


def counted(rim: Rim, code: str) -> float:
    for family in rim.registry.collect():
        for sample in family.samples:
            if sample.labels.get("method") == METHOD and sample.labels.get("code") == code:
                return sample.value
    return 0.0


async def test_a_watcher_gets_what_comes_after_it_began_and_nothing_of_another_tenant(
    rim: Rim,
) -> None:
    await feed(rim, rim.acme, 3)
    async with watching(rim) as watcher:
        await feed(rim, rim.other, 2)
        expected = await feed(rim, rim.acme, 4)
        assert await watcher.ids(4) == expected


async def test_a_watcher_resumes_behind_its_cursor(rim: Rim) -> None:
    expected = await feed(rim, rim.acme, 250)
    async with watching(rim, pb.WatchEventsRequest(from_beginning=True)) as watcher:
        got = [await watcher.next() for _ in range(120)]
    assert [answer.event.id for answer in got] == expected[:120]
    async with watching(rim, pb.WatchEventsRequest(cursor=got[-1].cursor)) as watcher:
        assert await watcher.ids(130) == expected[120:]


async def test_a_hint_about_its_tenant_makes_a_watcher_look(rim: Rim) -> None:
    hints: dict[str, asyncio.Event] = {}

    def hints_on(topic: str) -> asyncio.Event:
        return hints.setdefault(topic, asyncio.Event())

    house = replace(rim.house, hints=hints_on)
    seen = watch(house, rim.acme.id, None, FeedFilter.of([]))
    envelope, _ = await anext(seen)
    assert envelope == b""

    async def look() -> tuple[bytes, event_feed.Positions]:
        return await anext(seen)

    looking = asyncio.create_task(look())
    hinted = hints[event_feed.hint_topic(rim.acme.id)]
    hinted.set()

    async def taken() -> bool:
        return not hinted.is_set()

    await until(taken)
    [expected] = await feed(rim, rim.acme, 1)
    hinted.set()
    envelope, _ = await looking
    assert event_pb2.Event.FromString(envelope).id == expected
    assert list(hints) == [event_feed.hint_topic(rim.acme.id)]


async def test_a_cursor_behind_what_is_kept_is_too_old_and_the_beginning_is_what_is_left(
    rim: Rim,
) -> None:
    expected = await feed(rim, rim.acme, 6)
    begin = pb.WatchEventsRequest(from_beginning=True)
    async with watching(rim, begin) as watcher:
        got = [await watcher.next() for _ in range(3)]
    async with rim.databases.worker.transaction() as tx:
        await tx.execute("UPDATE router_positions SET feed_floor = 4")
    async with rim.owner() as owner:
        await owner.execute("DELETE FROM event_feed WHERE position <= 4")

    async with watching(rim, begin) as watcher:
        assert await watcher.ids(2) == expected[4:]
    stub: Any = EventServiceStub(rim.channel)
    metadata = (("authorization", f"Bearer {rim.acme.keys[Scope.READ]}"),)
    call = stub.WatchEvents(pb.WatchEventsRequest(cursor=got[-1].cursor), metadata=metadata)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    refusal = read_refusal(refused.value)
    assert (refusal.code.name, refusal.reason) == ("OUT_OF_RANGE", "CURSOR_TOO_OLD")


async def test_a_reader_that_does_not_read_slows_nobody_and_loses_nothing(rim: Rim) -> None:
    begin = pb.WatchEventsRequest(from_beginning=True)
    async with watching(rim, begin) as slow, watching(rim, begin) as fast:
        expected = await feed(rim, rim.acme, 2_000)
        assert await fast.ids(2_000) == expected
        assert await slow.ids(2_000) == expected


async def test_a_stream_is_refused_like_any_call(rim: Rim) -> None:
    stub: Any = EventServiceStub(rim.channel)
    for request, key, code, reason in (
        (pb.WatchEventsRequest(), "nobody", "UNAUTHENTICATED", None),
        (pb.WatchEventsRequest(cursor="xyz"), "", "INVALID_ARGUMENT", "CURSOR_INVALID"),
        (pb.WatchEventsRequest(subjects=["%"]), "", "INVALID_ARGUMENT", "SUBJECT_INVALID"),
        (pb.WatchEventsRequest(subjects=[""]), "", "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    ):
        before = counted(rim, code)
        metadata = (("authorization", f"Bearer {key or rim.acme.keys[Scope.READ]}"),)
        call = stub.WatchEvents(request, metadata=metadata)
        try:
            await call.read()
        except grpc.aio.AioRpcError as error:
            refusal = read_refusal(error)
        else:
            raise AssertionError(f"{request} was not refused")
        assert refusal.code.name == code
        assert reason in (None, refusal.reason)
        assert counted(rim, code) == before + 1


async def test_a_stream_that_its_caller_leaves_is_counted_as_cancelled(rim: Rim) -> None:
    async with watching(rim):
        pass

    async def told() -> bool:
        return counted(rim, "CANCELLED") == 1

    await until(told)
