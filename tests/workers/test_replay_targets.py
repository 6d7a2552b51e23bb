"""Replay path, step 3: each target gets what it lacks, nobody else gets anything, and nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from tollway.webhook.v1 import webhook_events_pb2

from billing.domain.errors import InvalidTransition
from billing.domain.ids import Prefix, encode
from billing.domain.replay import Effects as Outside
from billing.domain.replay import Mode, ReplayAction, Target, TargetKind
from billing.services import outbox, replay_control
from billing.services.consumers import WANTED
from billing.services.leases import LeaseKind
from billing.services.replay_safety import (
    EffectsSuppressed,
    NotReplayable,
    OlderThanInbox,
    PeriodsClosed,
)
from billing.services.replays import ReplayView, StartOrder, start_replay
from tests.backbone import Backbone, Effects
from tests.conftest import Databases
from tests.replay_world import CHANGED, DRAFTED, METHOD, REPORTED, ReplayWorld, make_world
from tests.services.usage_world import World as UsageWorld
from tests.webhook_world import WebhookWorld, ok, send_all, status, webhook_world
from tests.workers.test_replay import run_out, start_over, worker_of
from workers.replay import ReplayWorker

USAGE = Target(TargetKind.CONSUMER, "usage")
DEAD = Target(TargetKind.DEAD_LETTERS)
NOWHERE = Target(TargetKind.CONSUMER, "webhooks")


@pytest.fixture
async def hooks(databases: Databases) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(databases) as opened:
        yield opened


@pytest.fixture
async def world(databases: Databases) -> ReplayWorld:
    return await make_world(databases)


async def move(world: ReplayWorld, view: ReplayView, action: ReplayAction) -> ReplayView:
    order = replay_control.Order(world.cause(), METHOD, "by hand", world.tenant_id)
    async with world.databases.api.transaction(world.tenant_id) as tx:
        await replay_control.move(tx, view.row.id, action, order, now=world.now)
    return await world.seen(view.row.id)


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


# --- endpoints


async def test_an_endpoint_gets_what_it_never_got_under_the_id_that_it_always_had(
    hooks: WebhookWorld,
) -> None:
    world = ReplayWorld(hooks.databases, hooks.tenant_id)
    endpoint = await hooks.endpoint("/hook", "customer.*")
    delivered = await hooks.deliverable()
    async with hooks.sender() as sender:
        await send_all(sender)
        await hooks.receiver.arrived("/hook")
    dead = await hooks.emit()
    await hooks.fan_out(dead)
    await world.execute(
        "UPDATE webhook_deliveries SET status = 'dead', attempts = 10, finished_at = now() WHERE status = 'pending'"
    )
    missed = await hooks.emit()  # never fanned out
    await world.publish()

    target = Target(TargetKind.ENDPOINT, encode(Prefix.WEBHOOK_ENDPOINT, endpoint.id))
    later = world.now + timedelta(seconds=5)
    with pytest.raises(EffectsSuppressed):
        await world.plan("customer.*", target=target, at=later)
    planned = await world.plan(
        "customer.*", target=target, at=later, external_effects=Outside.ALLOW
    )
    assert planned.found.deliveries == {"delivered": 1, "dead": 1}
    view = await world.start(world.confirm(planned))
    await run_out(worker_of(world))
    ended = await world.seen(view.row.id)
    assert (ended.row.status, ended.published, ended.row.skipped) == ("finished", 2, 1)

    async with hooks.sender() as sender:
        await send_all(sender)
        await hooks.receiver.arrived("/hook", 3)
    names = [encode(Prefix.EVENT, event.event_id) for event in (*dead, *missed)]
    assert sorted(hooks.receiver.ids("/hook")) == sorted([*delivered, *names])
    await hooks.check_balance()


async def test_what_is_tried_again_for_a_replay_is_recorded_beside_what_was_tried_before(
    hooks: WebhookWorld,
) -> None:
    world = ReplayWorld(hooks.databases, hooks.tenant_id)
    endpoint = await hooks.endpoint("/hook", "customer.*", answer=status(500))
    await hooks.deliverable()
    async with hooks.sender() as sender:
        await send_all(sender)
    await world.execute("UPDATE webhook_deliveries SET status = 'dead', finished_at = now()")
    await world.publish()
    hooks.receiver.answers["/hook"] = ok
    await to_endpoint(world, endpoint.id)
    async with hooks.sender() as sender:
        await send_all(sender)
    outcomes = [(row["attempt_number"], row["outcome"]) for row in await hooks.attempts()]
    assert outcomes == [(1, "refused"), (2, "delivered")]


async def test_an_endpoint_that_gives_up_a_replayed_event_has_had_all_its_attempts_again(
    hooks: WebhookWorld,
) -> None:
    world = ReplayWorld(hooks.databases, hooks.tenant_id)
    endpoint = await hooks.endpoint("/hook", "customer.*", answer=status(500))
    await hooks.deliverable()
    await world.execute(
        "UPDATE webhook_deliveries SET status = 'dead', attempts = 10, finished_at = now()"
    )
    await world.publish()
    await to_endpoint(world, endpoint.id)
    async with hooks.sender() as sender:
        for _ in range(10):
            assert await hooks.statuses() == {"pending": 1}
            await hooks.make_due()
            await send_all(sender)
    assert await hooks.statuses() == {"dead": 1}
    assert [row["attempt_number"] for row in await hooks.attempts()] == list(range(11, 21))
    told = "SELECT count(*) FROM billing_events WHERE subject = 'webhook.delivery.exhausted'"
    assert await world.value(told) == 1
    await hooks.check_balance()


async def test_an_endpoint_gets_by_a_replay_only_what_it_wants_and_no_ping_of_another(
    hooks: WebhookWorld,
) -> None:
    world = ReplayWorld(hooks.databases, hooks.tenant_id)
    endpoint = await hooks.endpoint("/hook", "customer.*")
    everything = await hooks.endpoint("/all")
    other = await hooks.endpoint("/other", "customer.*")
    [wanted] = await hooks.emit()
    await hooks.emit(payload=DRAFTED)
    await hooks.emit(
        payload=webhook_events_pb2.WebhookPing(
            endpoint_id=encode(Prefix.WEBHOOK_ENDPOINT, other.id)
        )
    )
    await world.publish()
    await to_endpoint(world, endpoint.id)
    await to_endpoint(world, everything.id)
    made = await hooks.rows("SELECT webhook_id, event_id, subject FROM webhook_deliveries")
    assert [r["event_id"] for r in made if r["webhook_id"] == endpoint.id] == [wanted.event_id]
    subjects = {r["subject"] for r in made if r["webhook_id"] == everything.id}
    assert subjects >= {"customer.created", "invoice.generated"}
    assert "webhook.ping" not in subjects
    await hooks.check_balance()


async def to_endpoint(world: ReplayWorld, endpoint_id: UUID) -> ReplayView:
    """Everything so far to the endpoint, until the replay has ended."""
    target = Target(TargetKind.ENDPOINT, encode(Prefix.WEBHOOK_ENDPOINT, endpoint_id))
    later = world.now + timedelta(seconds=5)
    planned = await world.plan("*", target=target, at=later, external_effects=Outside.ALLOW)
    view = await world.start(world.confirm(planned))
    await run_out(worker_of(world))
    return await world.seen(view.row.id)


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
        order = StartOrder(world.cause(), METHOD, "why")
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
        order = StartOrder(world.cause(), METHOD, "why")
        await start_replay(tx, world.confirm(planned), order, now=world.now)
    await world.handle(["feed"], old)
    assert await world.value("SELECT oldest_inbox_id()") > UUID(
        int=int(begin.timestamp() * 1000) << 80
    )


# --- pausing


async def test_a_paused_replay_sends_nothing_until_it_is_resumed(backbone: Backbone) -> None:
    world = await make_world(backbone.databases)
    backbone.tenant = world.tenant_id
    ids = await backbone.emit([backbone.resource() for _ in range(5)], DRAFTED)
    await world.publish()
    view = await start_over(backbone, world, ids)
    worker = ReplayWorker(backbone.databases.worker, backbone.databases.clock, {})
    await run_out(worker)
    paused = await move(world, view, ReplayAction.PAUSE)
    assert (paused.row.status, paused.row.status_note) == ("paused", "by hand")
    with pytest.raises(InvalidTransition):
        await move(world, view, ReplayAction.PAUSE)
    await run_out(worker)
    await backbone.dispatch()
    assert sorted(await world.queued(view.row.id)) == sorted(ids)
    assert not [m for part in await backbone.on_bus() for m in part if "rpl_" in m.bus_id]

    await move(world, view, ReplayAction.RESUME)
    await backbone.dispatch()
    await run_out(worker)
    assert len([m for part in await backbone.on_bus() for m in part if "rpl_" in m.bus_id]) == 5
    ended = await world.seen(view.row.id)
    assert (ended.row.status, ended.published) == ("finished", 5)


async def test_what_the_bus_refuses_while_its_replay_is_paused_stays_held_and_pays_no_attempt_for_it(
    backbone: Backbone,
) -> None:
    world = await make_world(backbone.databases)
    backbone.tenant = world.tenant_id
    ids = await backbone.emit([backbone.resource()], DRAFTED)
    await world.publish()
    view = await start_over(backbone, world, ids)
    await run_out(ReplayWorker(backbone.databases.worker, backbone.databases.clock, {}))
    await world.publish()  # the event of its start
    keeper = backbone.keeper(LeaseKind.DISPATCHER)
    await keeper.step()
    [lease] = [held for held in keeper.usable() if held.shard == await shard_of(world, view)]
    database, now = backbone.databases.worker, backbone.now
    claim = outbox.Claim(lease.shard, 10, 10)
    [row] = await outbox.read_pending(database, [claim], in_flight=(), now=now)

    await move(world, view, ReplayAction.PAUSE)
    refusal = outbox.Refusal(row, "too large", now - timedelta(seconds=1))
    dead = await outbox.record_refusals(database, [refusal], lease, attempts_max=2, now=now)
    assert dead == 0
    assert await outbox.read_pending(database, [claim], in_flight=(), now=now) == []
    await move(world, view, ReplayAction.RESUME)
    [again] = await outbox.read_pending(database, [claim], in_flight=(), now=now)
    assert again.attempts == 1
    await keeper.close()


async def shard_of(world: ReplayWorld, view: ReplayView) -> int:
    return int(await world.value("SELECT shard FROM outbox WHERE replay_id = $1", view.row.id))


async def test_a_canceled_replay_shows_what_went_out_and_not_what_was_queued(
    world: ReplayWorld,
) -> None:
    await world.history(*[DRAFTED] * 4)
    view = await world.started()
    await run_out(worker_of(world))
    await world.execute(
        "DELETE FROM outbox WHERE ctid IN (SELECT ctid FROM outbox WHERE replay_id = $1 LIMIT 1)",
        view.row.id,
    )
    canceled = await move(world, view, ReplayAction.CANCEL)
    assert (canceled.published, canceled.failed) == (1, 0)


async def test_a_replay_of_a_paused_tenant_or_for_a_paused_consumer_waits(
    databases: Databases,
) -> None:
    usage, replay = await usage_of(databases)
    sub = await usage.served()
    await usage.record({"key": "k"})
    await replay.publish()
    later = replay.now + timedelta(seconds=5)
    planned = await replay.plan("usage.*", target=USAGE, mode=Mode.FORCE, at=later)
    view = await replay.start(replay.confirm(planned))
    for column, value in (("consumer", "usage"), ("tenant_id", replay.tenant_id)):
        await replay.execute(
            f"INSERT INTO pauses ({column}, reason, actor, paused_at) VALUES ($1, 'r', 'a', now())",
            value,
        )
        assert await run_out(worker_of(replay)) == 0
        assert await usage.buckets() == {}
        await replay.execute("DELETE FROM pauses")
    await run_out(worker_of(replay))
    assert (await replay.seen(view.row.id)).row.status == "finished"
    assert await usage.buckets() == {sub.item_id: (1, Decimal(1))}


async def test_a_canceled_replay_is_over_and_its_target_is_free(world: ReplayWorld) -> None:
    await world.history(*[DRAFTED] * 4)
    view = await world.started()
    await run_out(worker_of(world))
    canceled = await move(world, view, ReplayAction.CANCEL)
    assert (canceled.row.status, canceled.row.finished_at is not None) == ("canceled", True)
    assert await world.queued(view.row.id) == []
    assert await run_out(worker_of(world)) == 0
    subjects = await world.fetch(
        "SELECT subject FROM billing_events WHERE resource = $1 ORDER BY id",
        encode(Prefix.REPLAY, view.row.id),
    )
    assert [row["subject"] for row in subjects] == [
        "billing.replay.started",
        "billing.replay.finished",
    ]
    audit = await world.fetch("SELECT note FROM audit_log ORDER BY id")
    assert [row["note"] for row in audit][-1] == "by hand"
    await world.started()  # the target is free


async def test_a_replay_that_stops_on_errors_pauses_at_the_first_and_goes_on_when_told(
    world: ReplayWorld,
) -> None:
    ids = await world.history(*[DRAFTED] * 3)
    await dead_first(world, ids[1])
    view = await world.started(stop_on_errors=True)
    await run_out(worker_of(world))
    stopped = await world.seen(view.row.id)
    assert (stopped.row.status, stopped.failed) == ("paused", 1)
    assert "1 events failed" in stopped.row.status_note
    await move(world, view, ReplayAction.RESUME)
    await world.take(view.row.id)
    await run_out(worker_of(world))
    ended = await world.seen(view.row.id)
    assert (ended.row.status, ended.published, ended.failed) == ("finished", 2, 1)


async def dead_first(world: ReplayWorld, event_id: UUID) -> None:
    await world.execute(
        "INSERT INTO outbox_dead_letters (event_id, purpose, tenant_id, shard, priority, position, subject, resource,"
        " attempts, last_error, died_at) SELECT id, 'first', tenant_id, 0, 0, 1, subject, resource, 9, 'too large',"
        " now()"
        " FROM billing_events WHERE id = $1",
        event_id,
    )
