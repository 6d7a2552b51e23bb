"""What only the Kafka bus promises: its headers, its topic, its warnings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from confluent_kafka import Consumer, TopicPartition

from billing.runtime.bus.base import Bus, BusMisconfigured
from billing.runtime.bus.connect import connect_bus
from tests.kafka import KAFKA_TEST_TIMEOUT_S
from tests.runtime.bus.brokers import QUICK, KafkaBroker, message, messages, open_bus, read
from tests.runtime.bus.conftest import make_streams
from tools.kafka_for_tests import Kafka

pytestmark = pytest.mark.timeout(KAFKA_TEST_TIMEOUT_S)


@pytest.fixture
async def bus(kafka_process: Kafka) -> AsyncIterator[Bus]:
    broker = KafkaBroker(kafka_process)
    await broker.delete_streams()
    bus = await open_bus(broker)
    await make_streams(bus)
    yield bus
    await bus.close()


async def test_the_wire_carries_cloudevents_that_any_consumer_can_read(
    bus: Bus, kafka_process: Kafka
) -> None:
    sent = message(1)
    await bus.publish_one(sent)

    stored = await asyncio.to_thread(first_record, kafka_process.address)

    assert stored.key() == sent.key.encode()
    headers = {name: value.decode() for name, value in stored.headers()}
    attributes = dict(sent.headers)
    assert headers["content-type"] == attributes.pop("datacontenttype")
    assert {name: headers[f"ce_{name}"] for name in attributes} == attributes


def first_record(address: str):  # type: ignore[no-untyped-def]  # confluent's Message is loosely typed
    consumer = Consumer({"bootstrap.servers": address, "group.id": "someone"})
    consumer.assign([TopicPartition("tollway.events", 0, 0)])
    try:
        return consumer.poll(10)
    finally:
        consumer.close()


async def test_a_topic_gets_more_partitions_and_keeps_those_that_are_left_over(bus: Bus) -> None:
    await bus.ensure_streams(5)
    assert (await bus.stream_state(4)).last_seq == 0
    await bus.ensure_streams(3)
    assert (await bus.stream_state(4)).last_seq == 0


async def test_more_replicas_than_brokers_is_a_misconfiguration(kafka_process: Kafka) -> None:
    await KafkaBroker(kafka_process).delete_streams()
    bus = await connect_bus(f"kafka://{kafka_process.address}?replicas=3", QUICK)
    with pytest.raises(BusMisconfigured):
        await bus.ensure_streams(1)
    await bus.close()


async def test_a_single_replica_is_warned_of(bus: Bus) -> None:
    (warning,) = await bus.durability_warnings()
    assert "1 replica(s)" in warning


async def test_a_producer_that_timed_out_goes_on_in_order(kafka_process: Kafka) -> None:
    broker = KafkaBroker(kafka_process)
    await broker.delete_streams()
    bus = await open_bus(broker, replace(QUICK, ack_timeout_s=0.5))
    await make_streams(bus)
    await bus.publish_batch(0, messages(0, 10))
    broker.freeze()
    failed = await asyncio.gather(
        *[bus.publish_batch(0, messages(10 + n * 10, 10)) for n in range(3)],
        return_exceptions=True,
    )
    broker.thaw()
    assert any(isinstance(outcome, Exception) for outcome in failed)

    published = False
    while not published:
        outcomes = await bus.publish_singly([message(99)])
        published = not isinstance(outcomes[0], Exception)
    for start in range(10, 40, 10):
        await bus.publish_batch(0, messages(start, 10))

    count = (await bus.stream_state(0)).last_seq
    seen = list(dict.fromkeys(m.bus_id for m in await read(bus, count)))
    assert [bus_id for bus_id in seen if bus_id != "evt_00000099"] == [
        m.bus_id for m in messages(0, 40)
    ]
    await bus.close()
