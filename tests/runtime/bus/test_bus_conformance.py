"""What every bus must do, against each real one."""

from __future__ import annotations

import asyncio
import contextlib
import random
from datetime import UTC, datetime

import pytest

from billing.runtime.bus.base import (
    BatchRefused,
    Bus,
    BusError,
    BusMessage,
    BusUnavailable,
    MessageRefused,
    PublishAck,
    ReaderLost,
    RefusalReason,
    StreamChanged,
    StreamMissing,
)
from tests.runtime.bus.brokers import QUICK, Broker, message, messages, open_bus, read, until
from tests.runtime.bus.conftest import make_streams


async def test_what_was_published_is_received_whole(bus: Bus) -> None:
    sent = message(1, body=bytes(range(256)) + b"\r\n.\r\nMSG a 1 1\r\n")
    await bus.publish_one(sent)

    (received,) = await read(bus, 1)

    assert received.body == sent.body
    assert received.bus_id == sent.bus_id
    assert received.tenant == sent.tenant
    assert received.subject == sent.subject
    assert dict(received.headers) == dict(sent.headers)
    assert received.sequence == 1


async def test_attributes_outside_ascii_come_back_as_they_were(bus: Bus) -> None:
    sent = message(1)
    attributes = dict(sent.headers) | {"source": '/tölway/"a b%20c"', "replayid": "rpl_1"}
    await bus.publish_one(
        BusMessage(0, sent.tenant, sent.subject, "k", "evt_1:rpl_1", attributes, b"")
    )

    (received,) = await read(bus, 1)

    assert dict(received.headers) == attributes
    assert received.bus_id == "evt_1:rpl_1"


async def test_messages_arrive_in_the_order_of_publishing_per_partition(bus: Bus) -> None:
    chance = random.Random(5)
    number = 0
    for _ in range(12):
        count = chance.choice([1, 2, 7, 300])
        batch = messages(number, count)
        number += count
        if count > 2:
            await bus.publish_batch(0, batch)
        else:
            for single in batch:
                await bus.publish_one(single)

    received = await read(bus, number)

    assert [m.bus_id for m in received] == [m.bus_id for m in messages(0, number)]
    assert [m.sequence for m in received] == list(range(1, number + 1))


async def test_partitions_do_not_mix(bus: Bus) -> None:
    await bus.publish_batch(0, [message(1), message(2)])
    await bus.publish_batch(1, [message(3, partition=1)])

    assert [m.bus_id for m in await read(bus, 1, partition=1)] == ["evt_00000003"]
    assert (await bus.stream_state(0)).last_seq == 2


async def test_the_acknowledgement_tells_the_end_of_the_stream(bus: Bus) -> None:
    assert (await bus.publish_batch(0, messages(0, 5))).sequence == 5
    assert (await bus.publish_one(message(9))).sequence == 6
    state = await bus.stream_state(0)
    assert (state.first_seq, state.last_seq) == (1, 6)


async def test_an_empty_stream_begins_behind_its_end(bus: Bus) -> None:
    state = await bus.stream_state(1)
    assert (state.first_seq, state.last_seq) == (1, 0)


@pytest.mark.parametrize("position", [0, 1, 499, 1000, 1499])
async def test_reading_goes_on_from_a_stored_position(bus: Bus, position: int) -> None:
    await bus.publish_batch(0, messages(0, 1000))
    await bus.publish_batch(0, messages(1000, 500))

    received = await read(bus, 1500 - position, after=position)

    assert [m.sequence for m in received] == list(range(position + 1, 1501))


async def test_a_waiting_reader_sees_what_is_published_meanwhile(bus: Bus) -> None:
    async with bus.reader(0, 0) as reader:
        waiting = asyncio.create_task(reader.next_batch(10, 20.0))
        await asyncio.sleep(0)
        await bus.publish_one(message(1))
        assert [m.bus_id for m in await waiting] == ["evt_00000001"]


async def test_a_reader_with_nothing_to_read_returns_nothing(bus: Bus) -> None:
    async with bus.reader(0, 0) as reader:
        assert await reader.next_batch(10, 0.05) == []


async def test_a_cancelled_wait_loses_no_message(bus: Bus) -> None:
    async with bus.reader(0, 0) as reader:
        seen: list[int] = []
        for number in range(20):
            waiting = asyncio.create_task(reader.next_batch(10, 20.0))
            await asyncio.sleep(0)
            if number % 2:
                waiting.cancel()
            await bus.publish_one(message(number))
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                seen += [m.sequence for m in await waiting]
        while len(seen) < 20:
            seen += [m.sequence for m in await reader.next_batch(10, 5.0)]
    assert seen == list(range(1, 21))


async def test_a_message_too_large_is_refused_by_name(bus: Bus) -> None:
    large = message(1, body=b"x" * (bus.max_message_bytes + 1))

    with pytest.raises(MessageRefused) as refused:
        await bus.publish_one(large)
    with pytest.raises(BatchRefused):
        await bus.publish_batch(0, [message(2), large, message(3)])

    assert refused.value.reason is RefusalReason.TOO_LARGE
    assert (await bus.stream_state(0)).last_seq == 0


async def test_the_largest_message_goes_through(bus: Bus) -> None:
    await bus.publish_one(message(1, body=b"x" * 256 * 1024))
    (received,) = await read(bus, 1)
    assert len(received.body) == 256 * 1024


async def test_an_unknown_attribute_is_refused_by_name(bus: Bus) -> None:
    sent = message(1)
    wrong = BusMessage(0, sent.tenant, sent.subject, "k", "evt_1", {"smuggled": "x"}, b"")

    with pytest.raises(MessageRefused) as refused:
        await bus.publish_one(wrong)

    assert refused.value.reason is RefusalReason.MALFORMED


async def test_one_bad_message_does_not_hold_up_its_neighbours(bus: Bus) -> None:
    large = message(2, body=b"x" * (bus.max_message_bytes + 1))

    good, bad, other = await bus.publish_singly([message(1), large, message(3)])

    assert isinstance(good, PublishAck)
    assert isinstance(bad, MessageRefused)
    assert isinstance(other, PublishAck)
    assert {m.bus_id for m in await read(bus, 2)} == {"evt_00000001", "evt_00000003"}


async def test_a_batch_beyond_its_limits_is_refused(bus: Bus) -> None:
    with pytest.raises(BatchRefused):
        await bus.publish_batch(0, messages(0, 1001))
    with pytest.raises(BatchRefused):
        await bus.publish_batch(0, [message(n, body=b"x" * 250_000) for n in range(40)])


async def test_trimming_moves_the_first_sequence_and_readers_pass_over(bus: Bus) -> None:
    await bus.publish_batch(0, messages(0, 10))
    identity = (await bus.stream_state(0)).identity

    await bus.trim(0, 4, identity)
    assert (await bus.stream_state(0)).first_seq == 5
    assert [m.sequence for m in await read(bus, 6)] == [5, 6, 7, 8, 9, 10]

    await bus.trim(0, 99, identity)
    state = await bus.stream_state(0)
    assert (state.identity, state.first_seq, state.last_seq) == (identity, 11, 10)
    assert (await bus.publish_one(message(77))).sequence == 11


async def test_another_stream_is_not_trimmed(bus: Bus) -> None:
    await bus.publish_batch(0, messages(0, 3))
    with pytest.raises(StreamChanged):
        await bus.trim(0, 3, "another identity")
    assert (await bus.stream_state(0)).first_seq == 1


async def test_the_last_sequence_before_an_instant_is_known(bus: Bus) -> None:
    await bus.publish_batch(0, messages(0, 3))
    await asyncio.sleep(0.01)  # the broker's clock counts milliseconds: let one pass
    between = datetime.now(UTC)
    await asyncio.sleep(0.01)
    await bus.publish_batch(0, messages(3, 3))

    assert await bus.last_before(0, between) == 3
    assert await bus.last_before(0, datetime(2020, 1, 1, tzinfo=UTC)) == 0
    assert await bus.last_before(0, datetime(2100, 1, 1, tzinfo=UTC)) == 6


async def test_a_stream_made_again_is_another_one(bus: Bus, broker: Broker) -> None:
    await bus.publish_batch(0, messages(0, 5))
    old = await bus.stream_state(0)
    await broker.delete_streams()
    with pytest.raises(StreamMissing):
        for _ in range(100):  # Kafka's metadata lags a little behind the deletion
            await bus.stream_state(0)
    await make_streams(bus)

    new = await bus.stream_state(0)
    assert new.identity != old.identity
    with pytest.raises(StreamChanged):
        await bus.reader(0, 0, old.identity).__aenter__()
    with pytest.raises(StreamChanged):
        await bus.reader(0, 5).__aenter__()
    async with bus.reader(0, 0, new.identity) as reader:
        assert reader.state == new


async def test_making_streams_again_changes_nothing(bus: Bus) -> None:
    await bus.publish_batch(0, messages(0, 3))
    before = await bus.stream_state(0)
    await make_streams(bus)
    assert await bus.stream_state(0) == before


async def test_a_killed_broker_is_an_outage_and_loses_nothing(bus: Bus, broker: Broker) -> None:
    changes: list[bool] = []
    bus.on_connection(changes.append)
    await bus.publish_batch(0, messages(0, 10))
    async with bus.reader(0, 0) as reader:
        assert len(await reader.next_batch(10, 10.0)) > 0
        broker.kill()
        with pytest.raises(BusError):
            while True:
                await reader.next_batch(10, 10.0)
    await until(lambda: not bus.connected)
    with pytest.raises(BusUnavailable):
        await bus.publish_batch(0, messages(10, 5))
    with pytest.raises(BusUnavailable):
        await bus.publish_one(message(10))

    await broker.start()
    await until(lambda: bus.connected)
    await publish_until_taken(bus, messages(10, 5))

    received = await read(bus, 15)
    assert [m.bus_id for m in received] == [m.bus_id for m in messages(0, 15)]
    assert changes[0] is False
    assert changes[-1] is True


async def test_a_lost_acknowledgement_is_an_outage_and_publishing_again_is_safe(
    bus: Bus, broker: Broker
) -> None:
    await bus.publish_batch(0, messages(0, 3))
    broker.freeze()
    try:
        with pytest.raises(BusUnavailable):
            await bus.publish_batch(0, messages(3, 3))
    finally:
        broker.thaw()
    await until(lambda: bus.connected)

    again = messages(3, 3)
    try:
        await publish_until_taken(bus, again)
    except BatchRefused:  # it had been stored after all
        assert broker.drops_duplicates
        for single in again:
            assert (await bus.publish_one(single)).duplicate

    first_seen = await first_appearances(bus, 6)
    assert first_seen == [m.bus_id for m in messages(0, 6)]
    assert not broker.drops_duplicates or (await bus.stream_state(0)).last_seq == 6


async def test_closing_waits_for_what_is_on_its_way(broker: Broker) -> None:
    await broker.delete_streams()
    bus = await open_bus(broker)
    await make_streams(bus)
    under_way = [
        asyncio.create_task(bus.publish_batch(0, messages(n * 500, 500))) for n in range(4)
    ]
    await asyncio.sleep(0)  # let them begin

    await bus.close()

    await asyncio.gather(*under_way)
    assert not bus.connected
    with pytest.raises(BusUnavailable):
        await bus.publish_one(message(1))
    other = await open_bus(broker)
    assert (await other.stream_state(0)).last_seq == 2000
    await other.close()


async def test_a_hint_wakes_who_waits_for_its_topic(bus: Bus) -> None:
    woken = bus.subscribe_hints("outbox.3")
    other = bus.subscribe_hints("outbox.4")
    bus.hint("outbox.3")
    async with asyncio.timeout(10):
        await woken.wait()
    assert not other.is_set()


async def test_readers_of_one_partition_do_not_take_from_each_other(bus: Bus) -> None:
    await bus.publish_batch(0, messages(0, 200))
    first, second = await asyncio.gather(read(bus, 200), read(bus, 200))
    assert [m.sequence for m in first] == [m.sequence for m in second] == list(range(1, 201))


async def test_a_broker_killed_again_and_again_loses_and_inverts_nothing(
    bus: Bus, broker: Broker
) -> None:
    sent: list[BusMessage] = []
    stop = asyncio.Event()

    async def publish_on() -> None:
        while not stop.is_set():
            batch = messages(len(sent), 50)
            await publish_as_the_dispatcher_does(bus, batch)
            sent.extend(batch)

    publishing = asyncio.create_task(publish_on())
    for _ in range(3):
        await until_longer(sent, len(sent) + 200)
        broker.kill()
        await broker.start()
    stop.set()
    await publishing
    await until(lambda: bus.connected)  # publishing may have come back before reading

    assert await first_appearances(bus, len(sent)) == [m.bus_id for m in sent]
    assert not broker.drops_duplicates or (await bus.stream_state(0)).last_seq == len(sent)


async def first_appearances(bus: Bus, count: int) -> list[str]:
    """The first `count` different bus ids in order, and the last sequence read.

    As the router does: a fault of the reader makes a new one behind the position. What a broker took of a publish
    that failed stands there too, so the number of messages is not known.
    """
    seen: dict[str, None] = {}
    position = 0
    async with asyncio.timeout(60):
        while len(seen) < count:
            try:
                async with bus.reader(0, position) as reader:
                    while len(seen) < count:
                        for received in await reader.next_batch(500, 1.0):
                            seen.setdefault(received.bus_id)
                            position = received.sequence
            except (BusUnavailable, ReaderLost):
                await asyncio.sleep(QUICK.reconnect_first_s)
    return list(seen)


async def until_longer(sent: list[BusMessage], than: int) -> None:
    """Wait until so many were taken."""
    await until(lambda: len(sent) > than)


async def publish_as_the_dispatcher_does(bus: Bus, batch: list[BusMessage]) -> None:
    """A batch; singles in order when it is refused; all again after an outage."""
    async with asyncio.timeout(60):
        while True:
            try:
                try:
                    await bus.publish_batch(0, batch)
                except BatchRefused:
                    for single in batch:
                        await bus.publish_one(single)
                return
            except BusUnavailable:
                await asyncio.sleep(QUICK.reconnect_first_s)


async def publish_until_taken(bus: Bus, batch: list[BusMessage]) -> None:
    """As the dispatcher does: the same batch again until the bus has it."""
    async with asyncio.timeout(30):
        while True:
            try:
                await bus.publish_batch(0, batch)
                return
            except BusUnavailable:
                await asyncio.sleep(QUICK.reconnect_first_s)
