"""Replay path, beside steps 3 and 4: paused, resumed, canceled, stopped by an error."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from billing.domain.errors import InvalidTransition
from billing.domain.ids import Prefix, encode
from billing.domain.replay import Mode, ReplayAction
from billing.services import outbox, replay_control
from billing.services.leases import LeaseKind
from billing.services.replays import ReplayView
from tests.backbone import Backbone
from tests.conftest import Databases
from tests.replay_world import DRAFTED, ReplayWorld, make_world
from tests.workers.test_replay import run_out, start_over, worker_of
from tests.workers.test_replay_targets import USAGE, dead_first, usage_of
from workers.replay import ReplayWorker


@pytest.fixture
async def world(databases: Databases) -> ReplayWorld:
    return await make_world(databases)


async def move(world: ReplayWorld, view: ReplayView, action: ReplayAction) -> ReplayView:
    order = replay_control.Order(world.cause(), "by hand", world.tenant_id)
    async with world.databases.api.transaction(world.tenant_id) as tx:
        await replay_control.move(tx, view.row.id, action, order, now=world.now)
    return await world.seen(view.row.id)


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
    claim = outbox.Claim(lease.shard, outbox.Priority.REPLAY, 10, 10)
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
    assert (await world.seen(view.row.id)).row.status_note == "by hand"
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
