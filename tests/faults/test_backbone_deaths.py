"""Dispatcher and router die anywhere: nothing is lost, nothing is counted twice, no resource's order is inverted."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest
from tollway.event.v1 import event_pb2
from tollway.tenant.v1 import tenant_events_pb2

from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.services.events import NewEvent, emit
from billing.services.incoming import Incoming
from tests.backbone import PATIENCE_S, Backbone, Effects
from tests.faults.dying import Dying
from workers.dispatcher.settings import DispatcherSettings
from workers.router.consumers import Consumer
from workers.router.settings import RouterSettings

AWAITS_MAX = 400
ROOT = Path(__file__).parents[2]


async def assert_published_once_and_in_order(backbone: Backbone, ids: Collection[UUID]) -> None:
    held = await backbone.on_bus()
    seen = [message.headers["id"] for messages in held for message in messages]
    assert sorted(seen) == sorted(encode(Prefix.EVENT, event) for event in ids)
    for messages in held:
        versions: dict[str, list[int]] = defaultdict(list)
        for message in messages:
            event = event_pb2.Event.FromString(message.body)
            versions[event.resource_id].append(event.resource_version)
        for own in versions.values():
            assert own == sorted(own)


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await reached():  # noqa: ASYNC110 - another process brings it about
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "settings",
    [DispatcherSettings(), DispatcherSettings(shared_rows_max=1, batch_rows_max=4)],
    ids=["sharing a turn", "a deep shard"],
)
async def test_a_dispatcher_may_die_at_any_await(
    backbone: Backbone, settings: DispatcherSettings
) -> None:
    deep = settings.shared_rows_max == 1
    resources = [backbone.resource() for _ in range(3)]
    ids: list[UUID] = []
    for at in range(1, AWAITS_MAX):
        ids += await backbone.emit([resources[n % 3] for n in range(12)])
        dying, _, _ = await backbone.dispatcher(settings)
        try:
            if deep:  # the first step finds out that the shards are
                await dying.step()
            await Dying(dying.step(), at=at)
            survived = True
        except asyncio.CancelledError:
            survived = False
        await backbone.expire_leases()
        await backbone.dispatch()
        assert await backbone.count("outbox") == 0
        if survived:
            break
    assert survived
    await assert_published_once_and_in_order(backbone, ids)


async def test_a_dispatcher_killed_after_the_publish_publishes_again_and_the_bus_has_it_once(
    backbone: Backbone,
) -> None:
    ids = await backbone.emit([backbone.resource() for _ in range(40)])
    await backbone.dispatch()
    # The state that a kill between publish and delete leaves behind.
    await backbone.execute(
        "INSERT INTO outbox (event_id, tenant_id, shard, position, subject, resource)"
        " SELECT id, tenant_id, 0, nextval('outbox_position'), subject, resource FROM billing_events"
        " WHERE id = ANY ($1)",
        [UUID(hex=str(event).replace("-", "")) for event in ids[:20]],
    )
    held = await backbone.on_bus()
    on_zero = {message.headers["id"] for message in held[0]}
    await backbone.execute(
        "DELETE FROM outbox WHERE event_id <> ALL ($1)",
        [event for event in ids if encode(Prefix.EVENT, event) in on_zero],
    )
    again = await backbone.count("outbox")
    dispatcher, metrics, _ = await backbone.dispatcher(DispatcherSettings(plain_rows_max=1))

    while await dispatcher.step():
        pass

    assert metrics.duplicates._value.get() == again > 1
    assert metrics.batches_refused._value.get() == 1
    assert await backbone.count("outbox") == 0
    assert sum(map(len, await backbone.on_bus())) == 40


class FollowUps:
    """A consumer that answers each event with another, in the router's transaction."""

    def __init__(self, resource: str) -> None:
        self.resource, self.version = resource, 0

    async def handle(
        self, tx: Connection, events: Sequence[Incoming], now: datetime
    ) -> Collection[UUID]:
        answers = []
        for event in events:
            self.version += 1
            payload = tenant_events_pb2.ApiKeyCreated()
            cause = event.cause("worker:test")
            answers.append(
                NewEvent(event.tenant_id, self.resource, self.version, payload, now, cause)
            )
        await emit(tx, answers, now=now)
        return ()


async def test_a_router_may_die_at_any_await(backbone: Backbone) -> None:
    effects = Effects("effects")
    follow = FollowUps(backbone.resource())
    consumers = [
        effects.consumer("tenant.created"),
        Consumer("answers", frozenset({"tenant.created"}), follow.handle),
    ]
    resources = [backbone.resource() for _ in range(3)]
    emitted = 0
    survived = False
    for at in range(1, AWAITS_MAX):
        emitted += len(await backbone.emit([resources[n % 3] for n in range(6)]))
        await backbone.dispatch()
        async with backbone.router(consumers) as routing:
            await routing.arrived.wait()
            try:
                await Dying(routing.router.step(), at=at)
                survived = True
            except asyncio.CancelledError:
                survived = False
        await backbone.expire_leases()
        async with backbone.router(consumers) as routing:

            async def routed() -> bool:
                await routing.router.step()
                return await backbone.count("effects WHERE consumer = 'effects'") == emitted  # noqa: B023

            await until(routed)
        if survived:
            break

    assert survived
    # Each effect once (its key would refuse a second), each answer once, and nobody was blamed.
    assert await backbone.count("inbox WHERE consumer = 'effects'") == emitted
    assert await backbone.count("billing_events WHERE subject <> 'tenant.created'") == emitted
    assert await backbone.count("router_waiting") == 0


async def test_a_zombie_dispatcher_deletes_nothing_and_its_heir_publishes_again(
    backbone: Backbone,
) -> None:
    ids = await backbone.emit([backbone.resource() for _ in range(30)])
    zombie, metrics, _ = await backbone.dispatcher()
    await backbone.expire_leases()
    heir, _, _ = await backbone.dispatcher()

    assert await zombie.step() == 30
    assert metrics.zombie_deletes._value.get() == 30
    assert await backbone.count("outbox") == 30
    while await heir.step():
        pass

    assert await backbone.count("outbox") == 0
    await assert_published_once_and_in_order(backbone, ids)


async def test_a_zombie_router_commits_nothing(backbone: Backbone) -> None:
    ids = await backbone.emit([backbone.resource() for _ in range(30)])
    await backbone.dispatch()
    late, heir = Effects("every"), Effects("every")
    async with backbone.router([late.consumer()]) as zombie:
        await zombie.arrived.wait()
        await backbone.expire_leases()
        async with backbone.router([heir.consumer()]) as routing:
            assert await zombie.router.step() > 0
            assert zombie.metrics.lost_guards._value.get() > 0
            assert await backbone.count("inbox") == 0
            await routing.until(lambda: len(heir.given) == 30)

    assert late.given == []
    assert sorted(heir.given) == sorted(ids)


async def test_two_dispatchers_and_two_routers_at_once_do_the_work_of_one(
    backbone: Backbone,
) -> None:
    resources = [backbone.resource() for _ in range(9)]
    effects = Effects("every")
    ids: list[UUID] = []

    async def produce() -> None:
        for _ in range(20):
            ids.extend(await backbone.emit(random.sample(resources, 7)))

    pairs = [await backbone.dispatcher() for _ in range(2)]
    async with (
        backbone.router([effects.consumer()]) as first,
        backbone.router([effects.consumer()]) as second,
        asyncio.timeout(PATIENCE_S),
    ):
        keepers = [keeper for _, _, keeper in pairs] + [first.keeper, second.keeper]
        producing = asyncio.create_task(produce())
        while not producing.done() or len(effects.given) < len(ids):
            for keeper in keepers:
                await keeper.step()
            await asyncio.gather(
                *[dispatcher.step() for dispatcher, _, _ in pairs],
                first.router.step(),
                second.router.step(),
            )
            await asyncio.sleep(0)
        await producing
        assert [len(keeper.usable()) for keeper in keepers] == [1, 1, 1, 1]

    assert sorted(effects.given) == sorted(ids)
    assert await backbone.count("router_waiting") == 0
    await assert_published_once_and_in_order(backbone, ids)


async def test_a_router_with_slow_events_takes_them_one_by_one(backbone: Backbone) -> None:
    """A time limit that one event meets again and again is that event's, and stops nobody else."""
    ids = await backbone.emit([backbone.resource() for _ in range(12)])
    slow = ids[5]
    await backbone.dispatch()

    class Slow(Effects):
        async def handle(
            self, tx: Connection, events: Sequence[Incoming], now: datetime
        ) -> Collection[UUID]:
            if slow in {event.event_id for event in events}:
                await tx.execute("SET LOCAL statement_timeout = '20ms'; SELECT pg_sleep(5)")
            return await super().handle(tx, events, now)

    effects = Slow("slow")
    settings = RouterSettings(retry_every_s=1000)
    async with backbone.router([effects.consumer()], settings) as routing:
        await routing.step_until(lambda: len(effects.given) == 11)
        await routing.step_until(lambda: routing.metrics.parked.labels("slow")._value.get() == 1)

    [row] = await backbone.fetch("SELECT event_id, attempts, last_error FROM router_waiting")
    assert (row["event_id"], row["attempts"]) == (slow, 1)
    assert "QueryCanceledError" in row["last_error"]
