"""Real processes and what does not fit: a stream that is full, and an event that the bus refuses."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from tollway.tenant.v1 import tenant_events_pb2

from billing.runtime.bus.connect import connect_bus
from billing.services import dead_letters
from tests.backbone import BUS, PATIENCE_S, SHARDS, Backbone
from tests.conftest import LONG
from tests.faults.afterwards import assert_all_is_well
from tests.faults.pipeline import OLD, pipeline
from workers.loop import run_loop
from workers.metrics import SweeperMetrics
from workers.sweeper import Sweeper, SweeperSettings

pytestmark = pytest.mark.timeout(900 if LONG else 180)

EVENTS = 300 if LONG else 40
STREAM_BYTES = 6_000_000 if LONG else 600_000
LARGE = tenant_events_pb2.ApiKeyCreated(api_key_id="x" * 30_000)


async def test_a_stream_that_is_full_is_an_outage_until_what_was_routed_is_trimmed(
    backbone: Backbone,
) -> None:
    async with (
        limited_bus(backbone, stream_max_bytes=STREAM_BYTES),
        pipeline(backbone, routers=0) as house,
    ):
        house.payloads = (tenant_events_pb2.ApiKeyCreated(api_key_id="x" * 5_000),)
        async with house.load():
            await house.until_committed(4 * STREAM_BYTES // 5_000)
            async with asyncio.timeout(3 * PATIENCE_S):
                while not await is_full(backbone):  # noqa: ASYNC110 - the dispatcher brings it about
                    await asyncio.sleep(0.05)
            assert await backbone.count("outbox") > 0
            assert await backbone.count("outbox WHERE attempts > 0") == 0
            await house.start("router")
            async with sweeping(backbone):
                await house.until_routed(EVENTS)
        async with sweeping(backbone):
            await assert_all_is_well(backbone)


async def is_full(backbone: Backbone) -> bool:
    """Whether no further batch of 20 fits into any stream."""
    states = [await backbone.bus.stream_state(partition) for partition in range(SHARDS)]
    return all(state.stored_bytes > state.max_bytes - 120_000 for state in states)


@contextlib.asynccontextmanager
async def limited_bus(backbone: Backbone, **limits: int) -> AsyncIterator[None]:
    """The streams under other limits inside the block."""
    bus = await connect_bus(backbone.nats_url, replace(BUS, **limits))  # type: ignore[arg-type] # all are counts
    await bus.ensure_streams(SHARDS)
    await bus.close()
    yield
    await backbone.bus.ensure_streams(SHARDS)


@contextlib.asynccontextmanager
async def sweeping(backbone: Backbone) -> AsyncIterator[None]:
    """The sweeper at work, which trims what is routed and puts streams back that are gone."""
    sweeper = Sweeper(backbone.ground, SweeperSettings(), SweeperMetrics(CollectorRegistry()))
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(run_loop(sweeper.step, stop, idle_s=0.1))
        try:
            yield
        finally:
            stop.set()


async def test_an_event_that_is_too_large_for_the_bus_holds_its_resource_and_nobody_else(
    backbone: Backbone,
) -> None:
    resource = backbone.resource()
    async with pipeline(backbone) as house:
        async with house.load():
            async with limited_bus(backbone, message_max_bytes=20_000):
                await house.write([resource], LARGE)
                await house.write([resource] * 3, OLD)
                async with asyncio.timeout(PATIENCE_S):
                    while await backbone.count("outbox_dead_letters") == 0:  # noqa: ASYNC110 - likewise
                        await asyncio.sleep(0.05)
                await house.until_routed(EVENTS)
                assert (
                    await backbone.count(
                        f"effects JOIN billing_events e ON e.id = event_id WHERE e.resource = '{resource}'"
                    )
                    == 0
                )
            now = backbone.now
            async with backbone.databases.worker.transaction() as tx:
                [dead] = await dead_letters.list_dead(tx, None, before=None, limit=10)
                await dead_letters.redrive(tx, dead.id, None, now=now)
            await house.until_routed(EVENTS)
        await assert_all_is_well(backbone)


async def effects_of(backbone: Backbone, resource: str) -> int:
    return await backbone.count(
        f"effects JOIN billing_events e ON e.id = event_id WHERE e.resource = '{resource}'"
    )
