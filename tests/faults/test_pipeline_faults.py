"""Real processes, real servers, a steady load, and one fault at a time. Afterwards all must be well."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable

import pytest

from billing.runtime.embedded import RunningServers
from billing.runtime.embedded.servers import Server
from billing.services import pauses
from billing.services.events import resource_hash
from billing.services.pauses import PauseOrder, PauseTarget
from tests.backbone import SHARDS, Backbone, wipe_streams
from tests.conftest import LONG
from tests.faults.afterwards import assert_all_is_well
from tests.faults.backbone_process import CONSUMERS, LEASES
from tests.faults.pipeline import NEW, OLD, pipeline

pytestmark = pytest.mark.timeout(900 if LONG else 180)

KILLS = 50 if LONG else 2
DISPATCHERS, ROUTERS = (2, 3) if LONG else (1, 1)
EVENTS = 300 if LONG else 40
OUTAGE_S = 10.0 if LONG else 1.5
ROUNDS = 5 if LONG else 1


async def test_dispatchers_and_routers_are_killed_at_random(backbone: Backbone) -> None:
    async with pipeline(backbone, dispatchers=DISPATCHERS, routers=ROUTERS) as house:
        async with house.load():
            for _ in range(KILLS):
                await house.until_routed(random.randint(1, 40))
                await house.restart(random.choice(house.workers))
        await assert_all_is_well(backbone)


@pytest.mark.parametrize("role", ["dispatcher", "router"])
async def test_an_owner_that_is_stopped_past_its_lease_goes_on_as_a_stranger(
    backbone: Backbone, role: str
) -> None:
    async with pipeline(backbone) as house:
        async with house.load():
            for _ in range(ROUNDS):
                await house.until_routed(EVENTS)
                [owner] = house.of(role)
                owner.signal(signal.SIGSTOP)
                heir = await house.start(role)
                if LONG:
                    await asyncio.sleep(LEASES.lease_s)
                await house.free_leases(owner)
                await house.until_routed(EVENTS)
                owner.signal(signal.SIGCONT)
                await house.until_routed(EVENTS)
                await house.kill(heir)
        await assert_all_is_well(backbone)


async def test_nats_is_killed_in_the_middle_of_batches(
    backbone: Backbone, servers: RunningServers
) -> None:
    async with pipeline(backbone) as house:
        async with house.load():
            for _ in range(ROUNDS):
                await house.until_routed(EVENTS)
                async with servers.down(Server.NATS, kill=True):
                    await house.until_committed(EVENTS)
                await house.until_routed(EVENTS)
        await assert_all_is_well(backbone)


async def test_the_streams_are_deleted_under_load(backbone: Backbone) -> None:
    async with pipeline(backbone) as house:
        async with house.load():
            for _ in range(ROUNDS):
                await house.until_routed(EVENTS)
                await wipe_streams(backbone.nats_url)
                await house.until_committed(EVENTS)
                await backbone.bus.ensure_streams(SHARDS)
                await house.until_routed(EVENTS)
        await assert_all_is_well(backbone, healed=True)


async def test_postgresql_is_stopped(backbone: Backbone, servers: RunningServers) -> None:
    async with pipeline(backbone) as house:
        async with house.load():
            for _ in range(ROUNDS):
                await house.until_routed(EVENTS)
                async with servers.down(Server.POSTGRES):
                    await asyncio.sleep(OUTAGE_S)
                await house.until_routed(EVENTS)
        await assert_all_is_well(backbone)


async def test_every_event_is_published_twice(backbone: Backbone) -> None:
    async with pipeline(backbone) as house:
        async with house.load():
            await house.until_routed(EVENTS)
            await publish_again(backbone, "again_1")
            await house.until_routed(EVENTS)
        await publish_again(backbone, "again_2")
        await assert_all_is_well(backbone)


async def publish_again(backbone: Backbone, purpose: str) -> None:
    """All events once more, in any order, under other bus ids: as if the bus's duplicate window were long over."""
    rows = await backbone.fetch("SELECT id, tenant_id, subject, resource FROM billing_events")
    random.shuffle(rows)
    async with backbone.databases.worker.transaction() as tx:
        await tx.executemany(
            "INSERT INTO outbox (event_id, purpose, tenant_id, shard, position, subject, resource)"
            " VALUES ($1, $2, $3, $4, nextval('outbox_position'), $5, $6)",
            [
                (
                    row["id"],
                    purpose,
                    row["tenant_id"],
                    resource_hash(row["tenant_id"], row["resource"]) % SHARDS,
                    row["subject"],
                    row["resource"],
                )
                for row in rows
            ],
        )


async def test_two_dispatchers_and_three_routers_work_at_once(backbone: Backbone) -> None:
    async with pipeline(backbone, dispatchers=2, routers=3) as house:
        async with house.load():
            await house.until_routed(4 * EVENTS)
        await assert_all_is_well(backbone)


async def test_a_handler_fails_every_third_time(backbone: Backbone) -> None:
    async with pipeline(backbone, fails_every=3) as house:
        async with house.load():
            await house.until_routed(4 * EVENTS)
        await assert_all_is_well(backbone)


async def test_an_old_router_meets_a_new_subject(backbone: Backbone) -> None:
    async with pipeline(backbone, old=True) as house:
        house.payloads = (OLD, OLD, NEW)
        async with house.load():
            await house.until_routed(2 * EVENTS)
            assert await backbone.count("router_waiting WHERE consumer = '*'") > 0
            [old] = house.of("router")
            await house.start("router")  # a rolling deploy: both for a while
            await house.until_routed(EVENTS)
            await house.kill(old)
            await house.until_routed(EVENTS)
        await assert_all_is_well(backbone)


async def test_a_consumer_is_paused_and_resumed(backbone: Backbone) -> None:
    why = PauseOrder("opr_test", "to see what happens")
    async with pipeline(backbone) as house:
        async with house.load():
            for _ in range(ROUNDS):
                await house.until_routed(EVENTS)
                await order(backbone, pauses.pause, why, CONSUMERS)
                waiting = await backbone.count("router_waiting WHERE consumer = 'second'")
                await house.until_waiting("second", waiting + EVENTS // 2)
                [router] = house.of("router")
                await house.restart(router)  # what is paused outlives whoever was told
                await house.until_waiting("second", waiting + EVENTS)
                await order(backbone, pauses.resume)
                await house.until_routed(EVENTS)
        await assert_all_is_well(backbone)


async def order(backbone: Backbone, what: Callable[..., Awaitable[object]], *more: object) -> None:
    """An operator's order about the ordered consumer."""
    now = backbone.now
    async with backbone.databases.worker.transaction() as tx:
        await what(tx, PauseTarget(consumer="second"), *more, now=now)
