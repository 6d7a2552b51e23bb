"""Replay path, steps 3 and 4: what was confirmed is sent once, behind live traffic, and nothing is handled twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from tollway.event.v1 import event_pb2
from tollway.replay.v1 import replay_events_pb2

from billing.domain.ids import Prefix, encode
from billing.domain.replay import Safety, Target
from billing.services.consumers import WANTED
from billing.services.replay_filter import FilterDraft
from billing.services.replay_plan import PlanDraft, plan_replay
from billing.services.replays import ReplayView
from tests.backbone import SHARDS, Backbone, Effects, Routing, wipe_streams
from tests.conftest import Databases
from tests.replay_world import (
    BUS,
    CHANGED,
    DRAFTED,
    REPORTED,
    SUBSCRIBED,
    ReplayWorld,
    in_turn,
    make_world,
)
from workers.replay import ReplaySettings, ReplayWorker

SMALL = ReplaySettings(slice_max=3, queued_max=7)


@dataclass(slots=True)
class StillClock:
    """A clock that stands until it is moved."""

    at: datetime

    def now(self) -> datetime:
        return self.at


@pytest.fixture
async def world(databases: Databases) -> ReplayWorld:
    return await make_world(databases)


def worker_of(world: ReplayWorld, settings: ReplaySettings | None = None) -> ReplayWorker:
    return ReplayWorker(world.databases.worker, world.databases.clock, WANTED, settings)


async def run_out(worker: ReplayWorker) -> int:
    """Steps until nothing can be done; returns how much was."""
    total = 0
    while done := await worker.step():
        total += done
    return total


async def finished(world: ReplayWorld, view: ReplayView) -> replay_events_pb2.BillingReplayFinished:
    """The event of the end, which must be there, once, caused by the start's."""
    rows = await world.fetch(
        "SELECT * FROM billing_events WHERE resource = $1 ORDER BY resource_version",
        encode(Prefix.REPLAY, view.row.id),
    )
    assert [row["subject"] for row in rows] == ["billing.replay.started", "billing.replay.finished"]
    assert [row["resource_version"] for row in rows] == [1, 2]
    assert rows[1]["causation_id"] == rows[0]["id"]
    assert rows[1]["correlation_id"] == rows[0]["correlation_id"]
    told = replay_events_pb2.BillingReplayFinished()
    assert event_pb2.Event.FromString(rows[1]["envelope"]).data.Unpack(told)
    return told


async def test_a_replay_sends_what_was_planned_once_and_ends(world: ReplayWorld) -> None:
    ids = await world.history(*in_turn([DRAFTED, CHANGED], 8))
    await world.history(SUBSCRIBED, REPORTED)
    log = await world.value("SELECT count(*) FROM billing_events")
    view = await world.started("invoice.*")
    worker = worker_of(world)

    await run_out(worker)
    assert await world.queued(view.row.id) == ids
    running = await world.seen(view.row.id)
    assert (running.row.status, running.published, running.row.skipped) == ("running", 0, 8)
    await world.take(view.row.id)
    assert (await world.seen(view.row.id)).published == 8
    await run_out(worker)

    ended = await world.seen(view.row.id)
    assert (ended.row.status, ended.published, ended.failed) == ("finished", 8, 0)
    assert ended.row.finished_at is not None
    told = await finished(world, view)
    assert (told.published, told.skipped, told.failed) == (8, 8, 0)
    assert await world.value("SELECT count(*) FROM billing_events") == log + 2
    assert await run_out(worker) == 0


async def test_few_of_a_replay_are_queued_at_a_time_and_behind_live_events(
    world: ReplayWorld,
) -> None:
    ids = await world.history(*in_turn([DRAFTED], 20))
    view = await world.started("invoice.*")
    worker = worker_of(world, SMALL)
    sent: list[UUID] = []
    while len(sent) < 20:
        await run_out(worker)
        assert 0 < len(await world.queued(view.row.id)) <= SMALL.queued_max
        sent += await world.take(view.row.id)
    assert sent == ids

    await world.execute("UPDATE replays SET status = 'finished'")
    again = await world.started("invoice.*")
    await run_out(worker)
    (live,) = await world.emit(CHANGED)
    order = await world.fetch("SELECT event_id FROM outbox WHERE event_id = ANY ($1) ORDER BY priority, position",
                              [live, *await world.queued(again.row.id)])  # fmt: skip
    assert order[0]["event_id"] == live


async def test_a_replay_begins_with_few_and_has_more_queued_as_they_go(world: ReplayWorld) -> None:
    await world.history(*in_turn([DRAFTED], 40))
    view = await world.started("invoice.*")
    worker = worker_of(world, ReplaySettings(slice_max=50, queued_max=20, queued_first=2))
    queued = []
    for _ in range(4):
        await run_out(worker)
        queued.append(len(await world.take(view.row.id)))

    # Twice what was behind it each time, and then the most that may be queued.
    assert queued == [2, 4, 12, 20]


async def test_a_rate_is_kept_also_by_a_worker_that_was_away(world: ReplayWorld) -> None:
    await world.history(*in_turn([DRAFTED], 40))
    view = await world.started("invoice.*", rate_per_second=10)
    clock = StillClock(view.row.started_at)

    async def armed_after(seconds: float) -> int:
        clock.at += timedelta(seconds=seconds)
        # Each time another process: the rate is kept by what is stored.
        worker = ReplayWorker(world.databases.worker, clock, WANTED)
        await run_out(worker)
        return len(await world.queued(view.row.id))

    assert await armed_after(0) == 0
    assert await armed_after(0.05) == 0
    assert await armed_after(0.06) == 1
    assert await armed_after(0.5) == 6
    assert await armed_after(0.39) == 10
    assert await armed_after(30) == 20  # a second's worth, not thirty
    for _ in range(4):
        last = await armed_after(0.5)
    assert last == 40


async def test_versions_of_a_resource_keep_their_order_whatever_their_ids(
    world: ReplayWorld,
) -> None:
    resource, other = world.resource(), world.resource()
    # The second version's transaction made its id first.
    early = await world.emit(DRAFTED, ago=timedelta(seconds=40), resource=other)
    second = await world.emit(CHANGED, ago=timedelta(seconds=30), resource=resource)
    first = await world.emit(DRAFTED, ago=timedelta(seconds=20), resource=resource)
    await world.as_owner("UPDATE billing_events SET resource_version = 1 WHERE id = $1", first[0])
    await world.as_owner("UPDATE billing_events SET resource_version = 2 WHERE id = $1", second[0])
    await world.publish()
    view = await world.started("invoice.*")
    await run_out(worker_of(world))
    assert await world.queued(view.row.id) == [*early, *first, *second]


async def test_a_replay_never_overtakes_a_first_publication(world: ReplayWorld) -> None:
    before = await world.history(DRAFTED, DRAFTED)
    live = await world.emit(CHANGED)
    after = await world.emit(DRAFTED)
    await world.execute("DELETE FROM outbox WHERE event_id = $1", after[0])
    view = await world.started("invoice.*")
    worker = worker_of(world)
    await run_out(worker)
    assert await world.queued(view.row.id) == before
    await world.publish()
    await run_out(worker)
    assert await world.queued(view.row.id) == [*before, *live, *after]


async def test_dead_letters_are_left_out_and_counted_as_failed(world: ReplayWorld) -> None:
    ids = await world.emit(*in_turn([DRAFTED], 4))
    await kill(world, ids[1], "first")
    await world.publish()
    await world.handle(WANTED)
    view = await world.started("invoice.*")
    worker = worker_of(world)
    await run_out(worker)
    assert await world.queued(view.row.id) == [ids[0], ids[2], ids[3]]
    await kill(world, ids[2], f"replay_{view.row.id}")
    await world.take(view.row.id)
    running = await world.seen(view.row.id)
    assert (running.published, running.failed) == (2, 2)

    await run_out(worker)
    ended = await world.seen(view.row.id)
    assert (ended.row.status, ended.published, ended.failed) == ("finished", 2, 2)
    told = await finished(world, view)
    assert (told.published, told.failed) == (2, 2)


async def kill(world: ReplayWorld, event_id: UUID, purpose: str) -> None:
    """As the dispatcher does with what the bus refuses for the last time."""
    await world.execute(
        "WITH gone AS (DELETE FROM outbox WHERE event_id = $1 AND purpose = $2 RETURNING *)"
        " INSERT INTO outbox_dead_letters SELECT event_id, purpose, tenant_id, shard, priority, position, subject,"
        " resource, target, replay_id, 8, 'no', now() FROM gone",
        event_id,
        purpose,
    )


async def test_a_replay_waits_for_each_consumer_and_sends_again_what_none_got(
    world: ReplayWorld,
) -> None:
    ids = await world.emit(*in_turn([REPORTED, DRAFTED], 6))
    await world.publish()
    await world.handle(["webhooks", "feed"])
    view = await world.started()
    worker = worker_of(world, ReplaySettings(slice_max=4))
    await run_out(worker)
    assert await world.take(view.row.id) == ids
    assert await run_out(worker) == 0
    await world.handle(["usage"], ids[:2])
    # The next that lacks is parked at the router: it is in its hands.
    await world.execute(
        "INSERT INTO router_waiting (consumer, resource, resource_version, event_id, tenant_id, partition, subject,"
        " next_attempt_at, parked_at) SELECT 'usage', resource, resource_version, id, tenant_id, 0, subject, now(),"
        " now() FROM billing_events WHERE id = $1", ids[2])  # fmt: skip
    await run_out(worker)
    assert (await world.seen(view.row.id)).row.status == "running"
    assert await world.queued(view.row.id) == []

    await let_pass(world, view)
    await run_out(worker)
    assert await world.queued(view.row.id) == [ids[4]]  # the one that usage wants and has not
    await world.take(view.row.id)
    await world.handle(["usage"], ids[4:])
    await run_out(worker)
    assert (await world.seen(view.row.id)).row.status == "finished"
    assert (await finished(world, view)).published == 6


async def test_workers_at_once_arm_each_event_once_and_end_a_replay_once(
    world: ReplayWorld,
) -> None:
    other = await make_world(world.databases)
    worlds, views, expected = [world, other], [], []
    for each in worlds:
        expected.append(await each.history(*in_turn([DRAFTED, REPORTED], 30)))
        views.append(await each.started())
    workers = [worker_of(world, ReplaySettings(slice_max=3, replays_per_step=1)) for _ in range(4)]
    await run_out_together(workers)
    for each, view, ids in zip(worlds, views, expected, strict=True):
        assert await each.take(view.row.id) == ids
    await run_out_together(workers)
    for each, view in zip(worlds, views, strict=True):
        assert (await finished(each, view)).published == 30


async def run_out_together(workers: list[ReplayWorker]) -> None:
    idle = 0
    while idle < 3:  # a worker may find the only replay locked
        done = sum(await asyncio.gather(*(worker.step() for worker in workers)))
        idle = 0 if done else idle + 1


async def test_a_replay_that_cannot_go_on_does_not_keep_the_others(world: ReplayWorld) -> None:
    other = await make_world(world.databases)
    for each in (world, other):
        await each.history(DRAFTED)
    broken, sound = await world.started(), await other.started()
    await world.execute("UPDATE replays SET plan = '{}' WHERE id = $1", broken.row.id)
    with pytest.raises(ExceptionGroup):
        await worker_of(world).step()
    assert len(await other.queued(sound.row.id)) == 1


async def test_where_nothing_is_routed_a_replay_ends_when_it_is_sent(world: ReplayWorld) -> None:
    await world.emit(REPORTED)
    await world.publish()
    view = await world.started()
    worker = ReplayWorker(world.databases.worker, world.databases.clock, {})
    await run_out(worker)
    await world.take(view.row.id)
    await run_out(worker)
    assert (await world.seen(view.row.id)).row.status == "finished"


# --- with the real dispatcher, bus and router


async def test_a_replay_over_the_bus_changes_nothing_and_mends_what_was_missed(
    backbone: Backbone,
) -> None:
    world = await make_world(backbone.databases)
    backbone.tenant = world.tenant_id
    ids = await backbone.emit([backbone.resource() for _ in range(40)], DRAFTED)
    await backbone.dispatch()
    every, late = Effects("every"), Effects("late")
    # The second consumer was not there at the time.
    async with backbone.router([every.consumer()]) as routing:
        await routing.until(lambda: len(every.given) == 40)

    view = await start_over(backbone, world, ids)
    consumers = [every.consumer(), late.consumer("invoice.generated")]
    wanted = {"every": None, "late": ["invoice.generated"]}
    worker = ReplayWorker(backbone.databases.worker, backbone.databases.clock, wanted)
    async with backbone.router(consumers) as routing:
        await carry_on(backbone, worker, routing, lambda: len(late.given) == 40)
    await run_out(worker)

    ended = await world.seen(view.row.id)
    assert (ended.row.status, ended.published, ended.row.skipped) == ("finished", 40, 40)
    assert sorted(late.given) == sorted(ids)
    own = set(every.given) - set(ids)  # the replay's start
    assert sorted(every.given) == sorted([*ids, *own])
    assert len(own) == 1
    name = encode(Prefix.REPLAY, view.row.id)
    again = [
        message
        for messages in await backbone.on_bus()
        for message in messages
        if message.headers.get("replayid") == name
    ]
    assert sorted(message.bus_id for message in again) == sorted(
        f"{encode(Prefix.EVENT, event_id)}:{name}:@!webhooks" for event_id in ids
    )


async def test_what_the_bus_lost_of_a_replay_is_sent_again(backbone: Backbone) -> None:
    world = await make_world(backbone.databases)
    backbone.tenant = world.tenant_id
    ids = await backbone.emit([backbone.resource() for _ in range(6)], DRAFTED)
    await world.publish()
    view = await start_over(backbone, world, ids)
    every = Effects("every")
    database, clock = backbone.databases.worker, backbone.databases.clock
    worker = ReplayWorker(database, clock, {"every": ["invoice.generated"]})
    await run_out(worker)
    await backbone.dispatch()
    await wipe_streams(backbone.nats_url)
    await backbone.bus.ensure_streams(SHARDS)
    assert await run_out(worker) == 0

    await let_pass(world, view)
    async with backbone.router([every.consumer("invoice.generated")]) as routing:
        await carry_on(backbone, worker, routing, lambda: len(every.given) == 6)
    await run_out(worker)
    assert sorted(every.given) == sorted(ids)
    assert (await world.seen(view.row.id)).row.status == "finished"


async def let_pass(world: ReplayWorld, view: ReplayView) -> None:
    """As if the replay had last armed something long ago."""
    ago = timedelta(seconds=ReplaySettings().rearm_after_s)
    await world.execute(
        "UPDATE replays SET armed_at = armed_at - $1::interval WHERE id = $2", ago, view.row.id
    )


async def start_over(
    backbone: Backbone, world: ReplayWorld, ids: list[UUID], target: Target = BUS, **safety: Any
) -> ReplayView:
    """Starts a replay of exactly these events, which are younger than a range may end: planned a little ahead."""
    async with backbone.databases.api.transaction(world.tenant_id, snapshot=True) as tx:
        selected = FilterDraft(world.tenant_id, event_ids=tuple(ids))
        draft = PlanDraft(selected, [target], safety=Safety(**safety))
        planned = await plan_replay(tx, draft, WANTED, now=backbone.now + timedelta(seconds=5))
    assert planned.plan.matched == len(ids)
    return await world.start(world.confirm(planned))


async def carry_on(
    backbone: Backbone, worker: ReplayWorker, routing: Routing, reached: Callable[[], bool]
) -> None:
    await run_out(worker)
    await backbone.dispatch()
    await routing.until(reached)
