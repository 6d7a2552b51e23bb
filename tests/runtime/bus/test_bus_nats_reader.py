"""The NATS reader: holes, lost deliveries, requests that run out, a server that falls silent."""

from __future__ import annotations

import json
from dataclasses import replace

import nats
import pytest

from billing.runtime.bus.base import Bus, ReaderLost, SequenceGap
from tests.runtime.bus.brokers import QUICK, NatsServer, messages, open_bus, read, until_async

STREAM = "TOLLWAY_EVENTS_0"


@pytest.fixture
def bus(nats_bus: Bus) -> Bus:
    return nats_bus


async def test_a_hole_inside_the_stream_is_passed_over(bus: Bus, nats_server: NatsServer) -> None:
    await bus.publish_batch(0, messages(0, 6))
    for sequence in (3, 4):
        await nats_server.api(f"STREAM.MSG.DELETE.{STREAM}", {"seq": sequence})

    received = await read(bus, 4)

    assert [(m.sequence, m.bus_id) for m in received] == [
        (1, "evt_00000000"),
        (2, "evt_00000001"),
        (5, "evt_00000004"),
        (6, "evt_00000005"),
    ]


async def test_a_delivery_lost_on_the_way_ends_the_reader(
    bus: Bus, nats_server: NatsServer
) -> None:
    async with bus.reader(0, 0) as reader:
        (consumer,) = (await nats_server.api(f"CONSUMER.NAMES.{STREAM}"))["consumers"]
        thief = await nats.connect(f"nats://127.0.0.1:{nats_server.port}")
        inbox = await thief.subscribe("stolen")
        # Asked for in front of us: our own requests are served in turn with this one.
        request = json.dumps({"batch": 50, "expires": 10**10}).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}"
        await thief.publish(subject, request, reply="stolen")
        await thief.flush()
        await bus.publish_batch(0, messages(0, 100))
        await inbox.next_msg(10)
        with pytest.raises(SequenceGap):
            while True:
                await reader.next_batch(5, 5.0)
        await thief.close()


async def test_a_reader_outlives_its_pull_requests_and_its_small_memory(
    nats_server: NatsServer,
) -> None:
    settings = replace(QUICK, pull_batch=7, pull_ahead=20, pull_expires_s=0.3, heartbeat_s=0.1)
    bus = await open_bus(nats_server, settings)
    await bus.ensure_streams(1)
    seen: list[int] = []
    async with bus.reader(0, 0) as reader:
        for round_ in range(3):
            assert await reader.next_batch(10, 0.7) == []  # two rounds of requests run out
            await bus.publish_batch(0, messages(round_ * 100, 100))
            while len(seen) < (round_ + 1) * 100:
                seen += [m.sequence for m in await reader.next_batch(3, 5.0)]
    assert seen == list(range(1, 301))
    await bus.close()


async def test_a_slow_reader_takes_no_more_than_its_memory_holds(nats_server: NatsServer) -> None:
    settings = replace(QUICK, pull_batch=10, pull_ahead=40)
    bus = await open_bus(nats_server, settings)
    await bus.ensure_streams(1)

    async def taken() -> int:
        consumers = (await nats_server.api(f"CONSUMER.LIST.{STREAM}"))["consumers"]
        return int(consumers[0]["delivered"]["consumer_seq"])

    async with bus.reader(0, 0) as reader:
        await bus.publish_batch(0, messages(0, 500))

        async def full() -> bool:
            return await taken() == 40

        await until_async(full)
        await bus.publish_batch(0, messages(500, 100))
        assert await taken() == 40
        assert len(await reader.next_batch(25, 5.0)) == 25
    await bus.close()


async def test_a_deleted_consumer_ends_the_reader(bus: Bus, nats_server: NatsServer) -> None:
    async with bus.reader(0, 0) as reader:
        (consumer,) = (await nats_server.api(f"CONSUMER.NAMES.{STREAM}"))["consumers"]
        await nats_server.api(f"CONSUMER.DELETE.{STREAM}.{consumer}")
        with pytest.raises(ReaderLost):
            await reader.next_batch(10, 10.0)


async def test_a_silent_server_ends_the_reader(bus: Bus, nats_server: NatsServer) -> None:
    async with bus.reader(0, 0) as reader:
        nats_server.freeze()
        try:
            with pytest.raises(ReaderLost):
                await reader.next_batch(10, 60.0)
        finally:
            nats_server.thaw()


async def test_a_reader_leaves_no_consumer_behind(bus: Bus, nats_server: NatsServer) -> None:
    async with bus.reader(0, 0):
        pass

    async def gone() -> bool:
        return not (await nats_server.api(f"CONSUMER.NAMES.{STREAM}"))["consumers"]

    await until_async(gone)
