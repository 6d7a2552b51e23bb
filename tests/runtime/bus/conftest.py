"""Brokers for the bus's tests: a nats-server per test, one Kafka per session when it is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from billing.runtime.bus.base import Bus, BusUnavailable
from tests.kafka import KAFKA_TEST_TIMEOUT_S, kafka_process
from tests.runtime.bus.brokers import (
    Broker,
    KafkaBroker,
    NatsServer,
    open_bus,
    running,
    until_async,
)

__all__ = ["kafka_process"]

PARTITIONS = 2


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with running(NatsServer(tmp_path)) as server:
        yield server


@pytest.fixture
async def nats_bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connected NATS bus with two fresh partitions."""
    bus = await open_bus(nats_server)
    await bus.ensure_streams(PARTITIONS)
    yield bus
    await bus.close()


# The first of them waits for Java, and for Maven when nothing was fetched yet.
@pytest.fixture(
    params=["nats", pytest.param("kafka", marks=pytest.mark.timeout(KAFKA_TEST_TIMEOUT_S))]
)
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    """Each real bus in turn, empty."""
    if request.param == "kafka":
        yield KafkaBroker(request.getfixturevalue("kafka_process"))
        return
    async with running(NatsServer(tmp_path)) as server:
        yield server


@pytest.fixture
async def bus(broker: Broker) -> AsyncIterator[Bus]:
    """A connected bus with two fresh partitions."""
    await broker.delete_streams()
    bus = await open_bus(broker)
    await make_streams(bus)
    yield bus
    await bus.close()


async def make_streams(bus: Bus) -> None:
    """Make them, even while Kafka is still forgetting the topic's namesake."""

    async def made() -> bool:
        with contextlib.suppress(BusUnavailable):
            await bus.ensure_streams(PARTITIONS)
            return True
        return False

    await until_async(made)
