"""Replay path, step 3: each target gets what it lacks, nobody else gets anything, and nothing is done twice."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from billing.domain.ids import Prefix, encode
from billing.domain.replay import Effects as Outside
from billing.domain.replay import Mode, Target, TargetKind
from billing.services.consumers import WANTED
from billing.services.replay_safety import (
    EffectsSuppressed,
    NotReplayable,
    OlderThanInbox,
    PeriodsClosed,
)
from billing.services.replays import ReplayView, StartOrder, start_replay
from tests.backbone import Backbone, Effects
from tests.conftest import Databases
from tests.replay_world import CHANGED, DRAFTED, REPORTED, ReplayWorld, make_world
from tests.services.usage_world import World as UsageWorld
from tests.workers.test_replay import run_out, start_over, worker_of
from workers.replay import ReplayWorker

USAGE = Target(TargetKind.CONSUMER, "usage")
DEAD = Target(TargetKind.DEAD_LETTERS)
NOWHERE = Target(TargetKind.CONSUMER, "webhooks")


@pytest.fixture
async def world(databases: Databases) -> ReplayWorld:
    return await make_world(databases)


# --- consumers


async def test_a_replay_for_one_consumer_reaches_it_alone_and_only_what_it_lacks(
    backbone: Backbone,
) -> None:
    world = await make_world(backbone.databases)
    backbone.tenant = world.tenant_id
    ids = await backbone.emit([backbone.resource() for _ in range(12)], DRAFTED)
    await backbone.dispatch()
    usage, webhooks = Effects("usage"), Effects("webhooks")
    async with backbone.router([webhooks.consumer(), usage.consumer("usage.reported")]) as routing:
        await routing.until(lambda: len(webhooks.given) == 12)
    await world.execute(
        "INSERT INTO inbox (consumer, event_id, tenant_id) SELECT 'usage', id, tenant_id FROM"
        " unnest($1::uuid[]) AS e (id), (SELECT $2::uuid) AS t (tenant_id)",
        ids[:4],
        world.tenant_id,
    )

    # A release in which the consumer wants these too.
    view = await start_over(backbone, world, ids, USAGE)
    worker = ReplayWorker(
        backbone.databases.worker, backbone.databases.clock, {"usage": None, "webhooks": None}
    )
    async with backbone.router([webhooks.consumer(), usage.consumer()]) as routing:
        await run_out(worker)
        await backbone.dispatch()
        await routing.until(lambda: set(usage.given) >= set(ids[4:]))
    await run_out(worker)
    ended = await world.seen(view.row.id)
    assert (ended.row.status, ended.published, ended.row.skipped) == ("finished", 8, 4)
    assert set(usage.given) & set(ids) == set(ids[4:])
    assert sorted(set(webhooks.given) & set(ids)) == sorted(ids)
    assert len(webhooks.given) == len(set(webhooks.given))


async def test_external_effects_are_suppressed_unless_they_are_allowed(backbone: Backbone) -> None:
    world = await make_world(backbone.databases)
    backbone.tenant = world.tenant_id
    ids = await backbone.emit([backbone.resource() for _ in range(6)], DRAFTED)
    await world.publish()
    webhooks, feed = Effects("webhooks"), Effects("feed")
    consumers = [webhooks.consumer(), feed.consumer()]
    worker = ReplayWorker(
        backbone.databases.worker, backbone.databases.clock, {"webhooks": None, "feed": None}
    )
    for outside, expected in ((Outside.SUPPRESS, set()), (Outside.ALLOW, set(ids))):
        view = await start_over(backbone, world, ids, external_effects=outside)
        async with backbone.router(consumers) as routing:
            await run_out(worker)
            await backbone.dispatch()
            await routing.until(
                lambda wanted=expected: (
                    set(feed.given) >= set(ids)  # type: ignore[misc]
                    and set(webhooks.given) >= wanted
                )
            )
        await run_out(worker)
        assert (await world.seen(view.row.id)).row.status == "finished"
        assert set(webhooks.given) & set(ids) == expected


# --- dead letters


async def test_dead_letters_lock_their_partitions_in_order_as_the_router_does(
    world: ReplayWorld,
) -> None:
    ids = await world.history(DRAFTED, DRAFTED)
    for event_id, shard in zip(ids, (5, 2), strict=True):
        await dead_first(world, event_id)
        await world.execute("INSERT INTO router_positions (partition) VALUES ($1)", shard)
        await world.execute(
            "UPDATE outbox_dead_letters SET shard = $1 WHERE event_id = $2", shard, event_id
        )
    # The ids of the letters tell in which order they are listed.
    last_first = "SELECT shard FROM outbox_dead_letters ORDER BY id"
    if [row["shard"] for row in await world.fetch(last_first)] == [2, 5]:
        await world.execute("UPDATE outbox_dead_letters SET shard = 7 - shard")
    await world.start(world.confirm(await world.plan(target=DEAD, status="dead_letter")))
    router = await asyncpg.connect(world.databases.url)
    lock = "SELECT 1 FROM router_positions WHERE partition = $1 FOR NO KEY UPDATE NOWAIT"
    try:
        async with router.transaction():
            await router.execute(
                "SELECT 1 FROM router_positions WHERE partition = 2 FOR NO KEY UPDATE"
            )
            stepping = asyncio.create_task(worker_of(world).step())
            async with asyncio.timeout(30):
                while not await world.value(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
                ):
                    assert not stepping.done()
            await router.fetchrow(lock, 5)
        assert await stepping == 2
    finally:
        await router.close()
    assert await world.value("SELECT count(*) FROM outbox_dead_letters") == 0


async def test_dead_letters_go_back_where_they_came_from_and_webhooks_only_if_allowed(
    world: ReplayWorld,
) -> None:
    unsent, unhandled, outside = await world.history(DRAFTED, CHANGED, CHANGED)
    await dead_first(world, unsent)
    await world.execute(
        "INSERT INTO router_positions (partition) VALUES (0) ON CONFLICT DO NOTHING"
    )
    for consumer, event_id in (("invoice", unhandled), ("webhooks", outside)):
        await world.execute(
            "INSERT INTO router_dead_letters (consumer, resource, resource_version, event_id, tenant_id, partition,"
            " subject, attempts, last_error, died_at) SELECT $1, resource, resource_version, id, tenant_id, 0, subject,"
            " 9, 'broken', now() FROM billing_events WHERE id = $2",
            consumer,
            event_id,
        )
    planned = await world.plan(target=DEAD, status="dead_letter")
    assert planned.plan.matched == 3
    assert planned.found.dead == {"": 1, "invoice": 1, "webhooks": 1}

    view = await world.start(world.confirm(planned))
    await run_out(worker_of(world))
    ended = await world.seen(view.row.id)
    assert (ended.row.status, ended.published, ended.row.skipped) == ("finished", 2, 1)
    assert await world.value("SELECT count(*) FROM outbox WHERE event_id = $1", unsent) == 1
    waiting = await world.fetch("SELECT consumer, attempts FROM router_waiting")
    assert [tuple(row) for row in waiting] == [("invoice", 0)]
    left = await world.fetch("SELECT consumer FROM router_dead_letters")
    assert [row["consumer"] for row in left] == ["webhooks"]
    whys = await world.fetch("SELECT note FROM audit_log WHERE method = 'replay'")
    assert all(encode(Prefix.REPLAY, view.row.id) in row["note"] for row in whys)
    assert len(whys) == 2


# --- FORCE


async def usage_of(databases: Databases) -> tuple[UsageWorld, ReplayWorld]:
    now = databases.clock.now().replace(microsecond=0)
    usage = await UsageWorld(databases, now).make()
    return usage, ReplayWorld(databases, usage.tenant_id)


async def forced(replay: ReplayWorld, **options: Any) -> ReplayView:
    later = replay.now + timedelta(seconds=5)
    planned = await replay.plan("usage.*", target=USAGE, mode=Mode.FORCE, at=later, **options)
    view = await replay.start(replay.confirm(planned))
    await run_out(worker_of(replay))
    return await replay.seen(view.row.id)


BUCKETS = "SELECT * FROM usage_buckets ORDER BY item_id, period_start, hour, group_key"


async def test_forcing_usage_computes_the_same_buckets_and_mends_those_that_are_wrong(
    databases: Databases,
) -> None:
    usage, replay = await usage_of(databases)
    await usage.served()
    await usage.record(*({"key": f"k{n}", "quantity": str(n)} for n in range(5)))
    await usage.record({"key": "earlier", "quantity": "7", "at": usage.now - timedelta(hours=30)})
    await replay.publish()
    await replay.handle(WANTED)
    await usage.fold()
    await usage.execute("DELETE FROM usage_period_marks")
    right = await usage.rows(BUCKETS)

    ended = await forced(replay)
    assert (ended.row.status, ended.published, ended.failed) == ("finished", 2, 0)
    assert await usage.rows(BUCKETS) == right
    assert await usage.value("SELECT count(*) FROM usage_period_marks") == 0

    await usage.execute("UPDATE usage_buckets SET quantity_sum = quantity_sum + 1, records = 99")
    await usage.execute("DELETE FROM usage_buckets WHERE records = 99 AND quantity_sum = 8")
    await forced(replay)
    assert await usage.rows(BUCKETS) == right
    assert await usage.value("SELECT count(*) FROM usage_period_marks WHERE kind = 'due'") > 0


async def test_forcing_an_event_that_was_never_handled_handles_it_once(
    databases: Databases,
) -> None:
    usage, replay = await usage_of(databases)
    sub = await usage.served()
    await usage.record(*({"key": f"k{n}"} for n in range(3)))
    await replay.publish()
    await forced(replay)
    await forced(replay)
    assert await usage.buckets() == {sub.item_id: (3, Decimal(3))}
    handled = await usage.value("SELECT count(*) FROM inbox WHERE consumer = 'usage'")
    assert handled == 1
    assert await usage.value("SELECT count(*) FROM inbox_replays") == 2


async def test_billed_periods_are_not_touched_unless_that_is_allowed(databases: Databases) -> None:
    usage, replay = await usage_of(databases)
    start = usage.now - timedelta(days=40)
    sub = await usage.subscribe("UA", start)
    await usage.period(sub, start, usage.now + timedelta(days=1))
    await usage.record({"key": "k"})
    await usage.fold()
    await replay.publish()
    await usage.execute("UPDATE usage_periods SET status = 'billed'")
    with pytest.raises(PeriodsClosed):
        await forced(replay)
    assert (await forced(replay, allow_closed_periods=True)).row.status == "finished"


# --- refusals


async def test_what_would_do_harm_is_refused_with_a_reason_of_its_own(world: ReplayWorld) -> None:
    await world.history(DRAFTED, REPORTED)
    for options, refusal in (
        ({"target": NOWHERE}, EffectsSuppressed),
        ({"target": Target(TargetKind.BUS), "mode": Mode.FORCE}, NotReplayable),
        ({"target": Target(TargetKind.CONSUMER, "invoice"), "mode": Mode.FORCE}, NotReplayable),
    ):
        with pytest.raises(refusal):
            await world.plan(**options)


async def test_what_the_inbox_no_longer_knows_is_not_replayed_unless_that_is_allowed(
    world: ReplayWorld,
) -> None:
    await world.as_owner("SELECT make_event_partitions(now() - interval '30 days', 8)")
    old = await world.history(DRAFTED, ago=timedelta(days=25))
    (name,) = await world.fetch(
        "SELECT tableoid::regclass::text FROM inbox WHERE event_id = $1 LIMIT 1", old[0]
    )
    await world.as_owner(f"DROP TABLE {name[0]}")
    oldest = await world.value("SELECT oldest_inbox_id()")
    assert oldest is not None
    # What lies before it has no partition either.
    for row in await world.fetch(
        "SELECT c.oid::regclass::text AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'inbox'::regclass AND c.relname < $1",
        name[0],
    ):
        await world.as_owner(f"DROP TABLE {row['name']}")
    with pytest.raises(OlderThanInbox):
        await world.plan()
    planned = await world.plan(allow_older_than_inbox=True)
    assert any("older than the inbox" in warning for warning in planned.warnings)
    async with world.databases.worker.transaction() as tx:
        order = StartOrder(world.cause(), "why")
        await start_replay(tx, world.confirm(planned), order, now=world.now)
    assert await world.value("SELECT oldest_inbox_id()") <= old[0]
    await world.handle(["feed"], old)  # there is room for its mark


async def test_the_inbox_gets_room_where_the_events_are_and_not_where_the_range_begins(
    world: ReplayWorld,
) -> None:
    await world.as_owner("SELECT make_event_partitions(now() - interval '30 days', 8)")
    old = await world.history(DRAFTED, ago=timedelta(days=25))
    for row in await world.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'inbox'::regclass"
        " AND inhrelid::regclass::text <= (SELECT tableoid::regclass::text FROM inbox WHERE event_id = $1 LIMIT 1)",
        old[0],
    ):
        await world.as_owner(f"DROP TABLE {row['name']}")
    begin = datetime(1999, 1, 1, tzinfo=UTC)
    planned = await world.plan(start=begin, allow_older_than_inbox=True)
    async with world.databases.worker.transaction() as tx:
        order = StartOrder(world.cause(), "why")
        await start_replay(tx, world.confirm(planned), order, now=world.now)
    await world.handle(["feed"], old)
    assert await world.value("SELECT oldest_inbox_id()") > UUID(
        int=int(begin.timestamp() * 1000) << 80
    )


async def dead_first(world: ReplayWorld, event_id: UUID) -> None:
    await world.execute(
        "INSERT INTO outbox_dead_letters (event_id, purpose, tenant_id, shard, priority, position, subject, resource,"
        " attempts, last_error, died_at) SELECT id, 'first', tenant_id, 0, 0, 1, subject, resource, 9, 'too large',"
        " now()"
        " FROM billing_events WHERE id = $1",
        event_id,
    )
