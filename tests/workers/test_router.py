"""Router: each event reaches each consumer that wants it, once, and its own fault stops nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg
import nats
import pytest
from google.protobuf.struct_pb2 import Struct
from tollway.event.v1 import event_pb2
from tollway.subscription.v1 import subscription_events_pb2

from billing.domain.backoff import ExponentialBackoff
from billing.domain.ids import Prefix, encode
from billing.runtime.bus.base import BusMessage
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services.events import resource_hash
from billing.services.incoming import Incoming
from tests.backbone import SHARDS, Backbone, Effects, wipe_streams
from workers.router.consumers import Consumer
from workers.router.settings import RouterSettings

AT_ONCE = ExponentialBackoff(base_ms=1, cap_ms=1)
EAGER = RouterSettings(retry_every_s=0, failed_backoff=AT_ONCE, attempts_max=3)
PATIENT = RouterSettings(retry_every_s=0, failed_backoff=AT_ONCE, attempts_max=1_000_000)
CREATED = subscription_events_pb2.SubscriptionCreated()


async def test_each_consumer_gets_what_it_wants_once_and_in_order(backbone: Backbone) -> None:
    resources = [backbone.resource() for _ in range(5)]
    tenants = [await backbone.emit(resources) for _ in range(6)]
    subscriptions = await backbone.emit(resources, CREATED)
    await backbone.dispatch()
    every, some = Effects("every"), Effects("some")

    async with backbone.router(
        [every.consumer(), some.consumer("subscription.created")]
    ) as routing:
        await routing.until(lambda: len(every.given) == 35)

    assert sorted(some.given) == sorted(subscriptions)
    assert sorted(every.given) == sorted([e for ids in tenants for e in ids] + subscriptions)
    for place in range(5):
        own = [ids[place] for ids in [*tenants, subscriptions]]
        assert [event for event in every.given if event in set(own)] == own
    assert await backbone.count("inbox") == 40
    [position] = await backbone.fetch("SELECT sum(last_sequence) AS last FROM router_positions")
    assert position["last"] == 35


async def test_a_few_events_wait_for_the_shared_cycle_under_way_and_many_do_not(
    backbone: Backbone,
) -> None:
    began, end = asyncio.Event(), asyncio.Event()
    effects = Effects("slow")

    async def handle(tx: Connection, events: Sequence[Incoming], now: datetime) -> Collection[UUID]:
        if not began.is_set():
            began.set()
            await end.wait()
        return await effects.handle(tx, events, now)

    async def emit_to(partition: int, count: int) -> None:
        """Events of resources of one partition, published."""
        resources: list[str] = []
        while len(resources) < count:
            resource = backbone.resource()
            if resource_hash(backbone.tenant, resource) % SHARDS == partition:
                resources.append(resource)
        await backbone.emit(resources)
        await backbone.dispatch()

    settings = RouterSettings(retry_every_s=100, shared_events_min=3)
    async with backbone.router([Consumer("slow", None, handle)], settings) as routing:
        pulled = routing.metrics.pulled
        await emit_to(0, 1)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            first = group.create_task(routing.until(lambda: bool(effects.given)))
            await began.wait()
            await emit_to(1, 2)
            while pulled._value.get() < 3:
                assert await routing.router.step() == 0
                await asyncio.sleep(0)
            assert effects.given == []
            await emit_to(1, 1)
            while not effects.given:
                await routing.router.step()
                await asyncio.sleep(0)
            assert len(effects.given) == 3
            end.set()
            await first
    assert len(effects.given) == 4


async def test_an_event_that_comes_again_changes_nothing(backbone: Backbone) -> None:
    ids = await backbone.emit([backbone.resource() for _ in range(10)])
    await backbone.dispatch()
    held = await backbone.on_bus()
    effects = Effects("every")
    async with backbone.router([effects.consumer()]) as routing:
        await routing.until(lambda: len(effects.given) == 10)
        # The same events under other bus ids, as a replay publishes them.
        replay = encode(Prefix.REPLAY, new_id(backbone.now))
        for partition, messages in enumerate(held):
            for message in messages:
                bus_id = f"{message.bus_id}:{replay}"
                await backbone.bus.publish_one(
                    BusMessage(
                        partition,
                        message.tenant,
                        message.subject,
                        "key",
                        bus_id,
                        {},
                        message.body,
                    )
                )
        repeated = routing.metrics.repeated.labels("every")
        await routing.until(lambda: repeated._value.get() == 10)

    assert sorted(effects.given) == sorted(ids)
    assert await backbone.count("effects WHERE consumer = 'every'") == 10


async def test_an_event_at_fault_waits_alone_and_is_handled_when_it_is_cured(
    backbone: Backbone,
) -> None:
    ids = await backbone.emit([backbone.resource() for _ in range(100)])
    poison = ids[37]
    await backbone.dispatch()
    well, ill = Effects("well"), Effects("ill", failing={poison})
    async with backbone.router([ill.consumer(), well.consumer()], PATIENT) as routing:
        await routing.until(lambda: len(set(well.given)) == 100 and len(set(ill.given)) >= 99)
        [row] = await backbone.fetch("SELECT * FROM router_waiting")
        assert (row["consumer"], row["event_id"]) == ("ill", poison)
        assert row["attempts"] >= 1
        assert "UniqueViolationError" in row["last_error"]
        ill.failing.clear()
        await routing.step_until(lambda: poison in ill.given)

    assert await backbone.count("router_waiting") == 0
    assert await backbone.count("router_dead_letters") == 0
    # The effects that stand: what a failed try had written is gone with its savepoint.
    assert await backbone.count("effects WHERE consumer = 'ill'") == 100
    assert await backbone.count("effects WHERE consumer = 'well'") == 100
    assert await backbone.count("inbox") == 200


async def test_an_event_that_always_fails_becomes_a_dead_letter_with_its_error(
    backbone: Backbone,
) -> None:
    [poison, healthy] = await backbone.emit([backbone.resource(), backbone.resource()])
    await backbone.dispatch()
    effects = Effects("ill", failing={poison})
    async with backbone.router([effects.consumer()], EAGER) as routing:
        dead = routing.metrics.dead_letters.labels("ill")
        await routing.until(lambda: healthy in effects.given)
        await routing.step_until(lambda: dead._value.get() == 1)

    [row] = await backbone.fetch("SELECT * FROM router_dead_letters")
    assert (row["event_id"], row["consumer"], row["attempts"]) == (poison, "ill", 3)
    assert "UniqueViolationError" in row["last_error"]
    assert await backbone.count("router_waiting") == 0
    assert await backbone.count("inbox") == 1


async def test_an_event_that_must_wait_counts_no_attempt_and_never_dies(
    backbone: Backbone,
) -> None:
    [slow, quick] = await backbone.emit([backbone.resource(), backbone.resource()])
    await backbone.dispatch()
    effects = Effects("patient", waiting={slow})
    settings = RouterSettings(retry_every_s=0, attempts_max=1)
    async with backbone.router([effects.consumer()], settings) as routing:
        await routing.until(lambda: {slow, quick} <= set(effects.given))
        for _ in range(4):
            await backbone.execute("UPDATE router_waiting SET next_attempt_at = '-infinity'")
            tries = effects.given.count(slow)
            await routing.step_until(lambda tries=tries: effects.given.count(slow) > tries)  # type: ignore[misc]
        [row] = await backbone.fetch("SELECT attempts, last_error FROM router_waiting")
        assert tuple(row) == (0, "")
        effects.waiting.clear()
        await backbone.execute("UPDATE router_waiting SET next_attempt_at = '-infinity'")
        handled = routing.metrics.retried.labels("patient")
        await routing.step_until(lambda: handled._value.get() == 1)

    assert await backbone.count("router_waiting") == 0
    assert await backbone.count("effects WHERE consumer = 'patient'") == 2
    assert await backbone.count("inbox") == 2


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DeadlockDetectedError("deadlock detected"),
        asyncpg.SerializationError("could not serialize access"),
        asyncpg.ConnectionDoesNotExistError("connection was closed"),
        asyncpg.InternalClientError("cannot switch to state 15"),
    ],
)
async def test_a_fault_of_the_database_is_no_attempt_of_the_event(
    backbone: Backbone, error: Exception
) -> None:
    ids = await backbone.emit([backbone.resource() for _ in range(10)])
    await backbone.dispatch()
    effects = Effects("every", once=[error])
    async with backbone.router([effects.consumer()]) as routing:
        await routing.until(lambda: len(effects.given) == 10)
        assert routing.metrics.cycles_repeated.labels("outage")._value.get() == 1

    assert sorted(effects.given) == sorted(ids)
    assert await backbone.count("router_waiting") == 0
    assert await backbone.count("effects WHERE consumer = 'every'") == 10


async def test_an_unknown_subject_waits_for_the_router_that_knows_it(backbone: Backbone) -> None:
    [event] = await backbone.emit([backbone.resource()], CREATED)
    await backbone.dispatch()
    taker, named = Effects("taker"), Effects("named")
    old = [taker.consumer()]
    async with backbone.router(old, known=["tenant.created"]) as routing:
        await routing.until(lambda: taker.given == [event])
    [row] = await backbone.fetch("SELECT consumer, attempts, event_id FROM router_waiting")
    assert tuple(row) == ("*", 0, event)

    await backbone.execute("UPDATE router_waiting SET next_attempt_at = '-infinity'")
    new = [taker.consumer(), named.consumer("subscription.created")]
    async with backbone.router(new) as routing:
        await routing.step_until(lambda: named.given == [event])

    assert await backbone.count("router_waiting") == 0
    assert taker.given == [event]
    rows = await backbone.fetch("SELECT consumer FROM inbox ORDER BY consumer")
    assert [row["consumer"] for row in rows] == ["named", "taker"]


async def test_an_event_of_a_newer_schema_waits_too(backbone: Backbone) -> None:
    [event] = await backbone.emit([backbone.resource()], CREATED)
    [row] = await backbone.fetch("SELECT envelope FROM billing_events")
    newer = event_pb2.Event.FromString(row["envelope"])
    newer.schema_version = 2
    await backbone.execute("UPDATE billing_events SET envelope = $1", newer.SerializeToString())
    await backbone.dispatch()
    taker, named = Effects("taker"), Effects("named")
    async with backbone.router(
        [named.consumer("subscription.created"), taker.consumer()]
    ) as routing:
        await routing.until(lambda: taker.given == [event])
        await backbone.execute("UPDATE router_waiting SET next_attempt_at = '-infinity'")
        await routing.router.step()

    assert named.given == []
    [row] = await backbone.fetch("SELECT consumer, attempts FROM router_waiting")
    assert tuple(row) == ("*", 0)


async def test_what_is_custom_or_unreadable_is_passed_over(backbone: Backbone) -> None:
    [known] = await backbone.emit([backbone.resource()], CREATED)
    [row] = await backbone.fetch("SELECT envelope FROM billing_events")
    custom = event_pb2.Event.FromString(row["envelope"])
    custom.id = encode(Prefix.EVENT, new_id(backbone.now))
    custom.subject = "custom.report.made"
    custom.data.Pack(Struct())
    tenant = encode(Prefix.TENANT, backbone.tenant)
    for number, body in enumerate([b"\xff\xff no envelope", b"", custom.SerializeToString()]):
        message = BusMessage(0, tenant, "custom.report.made", "k", f"foreign{number}", {}, body)
        await backbone.bus.publish_one(message)
    await backbone.dispatch()
    named = Effects("named")
    async with backbone.router([named.consumer("subscription.created")]) as routing:
        unreadable = routing.metrics.unreadable
        await routing.until(lambda: named.given == [known] and unreadable._value.get() == 2)

    assert await backbone.count("router_waiting") == 0


async def test_a_stream_that_was_made_anew_is_read_from_its_start(backbone: Backbone) -> None:
    first = await backbone.emit([backbone.resource() for _ in range(10)])
    await backbone.dispatch()
    effects = Effects("every")
    async with backbone.router([effects.consumer()]) as routing:
        await routing.until(lambda: len(effects.given) == 10)
    await wipe_streams(backbone.nats_url)
    await backbone.bus.ensure_streams(SHARDS)
    second = await backbone.emit([backbone.resource() for _ in range(6)])
    await backbone.dispatch()

    async with backbone.router([effects.consumer()]) as routing:
        await routing.until(lambda: len(effects.given) == 16)
        assert routing.metrics.resets._value.get() == SHARDS

    assert sorted(effects.given) == sorted(first + second)
    [row] = await backbone.fetch("SELECT sum(gaps) AS gaps FROM router_positions")
    assert row["gaps"] == 0


async def test_a_stream_that_begins_ahead_of_the_position_is_counted_as_a_gap(
    backbone: Backbone,
) -> None:
    resource = backbone.resource()
    ids = await backbone.emit([resource] * 5)
    effects = Effects("every")
    async with backbone.router([effects.consumer()]):
        pass
    await backbone.execute("UPDATE router_positions SET stream_identity = '', last_sequence = 0")
    await backbone.dispatch()
    async with backbone.router([effects.consumer()]) as routing:
        await routing.until(lambda: len(effects.given) == 5)
    more = await backbone.emit([resource] * 5)
    await backbone.dispatch()
    held = await backbone.on_bus()
    partition = next(n for n, messages in enumerate(held) if messages)
    await backbone.bus.trim(partition, 7)

    async with backbone.router([effects.consumer()]) as routing:
        await routing.until(lambda: more[-1] in effects.given)
        assert routing.metrics.gaps._value.get() == 1

    assert effects.given == ids + more[2:]
    rows = await backbone.fetch("SELECT sum(gaps) FROM router_positions")
    assert rows[0][0] == 1


async def test_a_stream_deleted_while_it_is_read_is_found_again(backbone: Backbone) -> None:
    effects = Effects("every")
    async with backbone.router([effects.consumer()]) as routing:
        await backbone.emit([backbone.resource() for _ in range(4)])
        await backbone.dispatch()
        await routing.until(lambda: len(effects.given) == 4)
        client = await nats.connect(backbone.nats_url)
        await client.jetstream().delete_stream("TOLLWAY_EVENTS_0")
        await client.jetstream().delete_stream("TOLLWAY_EVENTS_1")
        await client.close()
        await backbone.bus.ensure_streams(SHARDS)
        await backbone.emit([backbone.resource() for _ in range(4)])
        await backbone.dispatch()
        await routing.until(lambda: len(effects.given) == 8)


async def test_no_more_is_pulled_than_fits_and_all_of_it_is_routed(backbone: Backbone) -> None:
    large = subscription_events_pb2.SubscriptionCreated(plan_id="x" * 50_000)
    resource = backbone.resource()
    ids = [e for _ in range(4) for e in await backbone.emit([resource] * 25, large)]
    await backbone.dispatch()
    settings = RouterSettings(pulled_bytes_max=100_000, cycle_events_max=3, pulled_events_max=6)
    effects = Effects("every")
    async with backbone.router([effects.consumer()], settings) as routing:
        await routing.until(lambda: len(effects.given) == 100)
    assert effects.given == ids


async def test_a_commit_without_an_answer_is_found_in_the_position(backbone: Backbone) -> None:
    resource = backbone.resource()
    ids = await backbone.emit([resource] * 10)
    await backbone.dispatch()
    effects = Effects("every")
    async with backbone.router([effects.consumer()]) as routing:
        await routing.arrived.wait()
        # As if this very router had committed the first three, and the answer was lost on the way.
        await backbone.execute(
            "UPDATE router_positions SET last_sequence = 3 WHERE partition ="
            " (SELECT shard FROM leases WHERE kind = 'router' AND shard = $1)",
            next(n for n, messages in enumerate(await backbone.on_bus()) if messages),
        )
        await routing.until(lambda: len(effects.given) == 7)
        assert routing.metrics.lost_guards._value.get() == 1

    assert effects.given == ids[3:]
