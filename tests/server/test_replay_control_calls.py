"""Replays over the wire: listed, watched, paused, resumed, canceled; and what only an operator may ask for."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
import pytest
from tollway.replay.v1 import replay_service_pb2 as pb
from tollway.replay.v1.replay_service_pb2_grpc import ReplayServiceStub

from billing.domain.ids import Prefix, decode, encode
from billing.services.consumers import WANTED
from billing.services.keys import Scope
from tests.replay_world import DRAFTED, ReplayWorld
from tests.server.rim import Rim
from tests.server.test_replay_calls import plan_of
from workers.replay import ReplayWorker

SERVICE: Final = "/tollway.replay.v1.ReplayService/"
PHRASE: Final = "replay all tenants"


@pytest.fixture
async def world(rim: Rim) -> ReplayWorld:
    """The log of the tenant `acme`: nothing that was on its way is left in the queue."""
    world = ReplayWorld(rim.databases, rim.acme.id)
    await world.publish()
    return world


async def start(rim: Rim, request: pb.PlanReplayRequest, key: str = "", **more: Any) -> pb.Replay:
    plan = await rim.call(f"{SERVICE}PlanReplay", request, key)
    started = pb.StartReplayRequest(confirmation_token=plan.confirmation_token, note="why", **more)
    answer: pb.StartReplayResponse = await rim.call(f"{SERVICE}StartReplay", started, key)
    return answer.replay


async def test_a_replay_is_paused_resumed_and_canceled_each_once(
    rim: Rim, world: ReplayWorld
) -> None:
    await world.history(DRAFTED)
    replay = await start(rim, plan_of("invoice.*"))
    assert (replay.target, replay.mode) == ("bus", pb.REPLAY_MODE_PRESERVE)
    assert replay.external_effects == pb.EXTERNAL_EFFECTS_SUPPRESS

    pause = pb.PauseReplayRequest(replay_id=replay.id, note="slow receiver", request_id="once")
    paused = await rim.call(f"{SERVICE}PauseReplay", pause)
    assert paused == await rim.call(f"{SERVICE}PauseReplay", pause)
    assert paused.replay.status == pb.REPLAY_STATUS_PAUSED
    assert paused.replay.status_note == "slow receiver"
    again = await rim.refused(f"{SERVICE}PauseReplay", pb.PauseReplayRequest(replay_id=replay.id))
    assert again.reason == "INVALID_TRANSITION"

    resumed = await rim.call(f"{SERVICE}ResumeReplay", pb.ResumeReplayRequest(replay_id=replay.id))
    assert resumed.replay.status == pb.REPLAY_STATUS_RUNNING
    cancel = pb.CancelReplayRequest(replay_id=replay.id, note="the wrong week")
    canceled = await rim.call(f"{SERVICE}CancelReplay", cancel)
    assert canceled.replay.status == pb.REPLAY_STATUS_CANCELED

    theirs = rim.other.keys[Scope.ADMIN]
    refused = await rim.refused(f"{SERVICE}CancelReplay", cancel, theirs)
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "REPLAY_NOT_FOUND")
    read = await rim.refused(f"{SERVICE}PauseReplay", pause, rim.acme.keys[Scope.READ])
    assert read.reason == "SCOPE_MISSING"


async def test_replays_are_listed_newest_first_by_page_and_state(
    rim: Rim, world: ReplayWorld
) -> None:
    await world.history(DRAFTED)
    made: list[str] = []
    for _ in range(3):
        replay = await start(rim, plan_of("invoice.*"))
        made.insert(0, replay.id)
        await rim.call(f"{SERVICE}CancelReplay", pb.CancelReplayRequest(replay_id=replay.id))
    first = await rim.call(f"{SERVICE}ListReplays", pb.ListReplaysRequest(page_size=2))
    rest = await rim.call(
        f"{SERVICE}ListReplays",
        pb.ListReplaysRequest(page_size=2, page_token=first.next_page_token),
    )
    assert [r.id for r in (*first.replays, *rest.replays)] == made
    assert rest.next_page_token == ""
    running = pb.ListReplaysRequest(status=pb.REPLAY_STATUS_RUNNING)
    assert not (await rim.call(f"{SERVICE}ListReplays", running)).replays
    theirs = await rim.call(
        f"{SERVICE}ListReplays", pb.ListReplaysRequest(), rim.other.keys[Scope.READ]
    )
    assert not theirs.replays
    everybody = await rim.call(f"{SERVICE}ListReplays", pb.ListReplaysRequest(), rim.operator)
    assert [r.id for r in everybody.replays] == made


async def test_a_watcher_is_told_of_every_change_and_leaves_at_the_end(
    rim: Rim, world: ReplayWorld
) -> None:
    await world.history(DRAFTED, DRAFTED)
    replay = await start(rim, plan_of("invoice.*"))
    stub = ReplayServiceStub(rim.channel)
    metadata = (("authorization", f"Bearer {rim.acme.keys[Scope.READ]}"),)
    told: list[pb.Replay] = []

    async def watch() -> None:
        request = pb.WatchReplayRequest(replay_id=replay.id)
        answers = stub.WatchReplay(request, metadata=metadata)
        told.extend([answer.replay async for answer in answers])

    watching = asyncio.create_task(watch())
    worker = ReplayWorker(world.databases.worker, world.databases.clock, WANTED)
    while not watching.done():
        await worker.step()
        await world.take(decode(Prefix.REPLAY, replay.id))
        await asyncio.wait([watching], timeout=0.02)
    await watching
    assert told[0].status == pb.REPLAY_STATUS_RUNNING
    assert told[-1].status == pb.REPLAY_STATUS_FINISHED
    assert told[-1].published == 2
    assert len({one.SerializeToString() for one in told}) == len(told)


async def test_a_plan_that_is_not_the_one_agreed_to_is_not_started(
    rim: Rim, world: ReplayWorld
) -> None:
    await world.history(DRAFTED)
    plan = await rim.call(f"{SERVICE}PlanReplay", plan_of("invoice.*"))
    wrong = pb.StartReplayRequest(confirmation_token=plan.confirmation_token, plan_hash="0" * 64)
    refused = await rim.refused(f"{SERVICE}StartReplay", wrong)
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "REPLAY_PLAN_CHANGED",
    )
    right = pb.StartReplayRequest(
        confirmation_token=plan.confirmation_token, plan_hash=plan.plan_hash
    )
    assert (await rim.call(f"{SERVICE}StartReplay", right)).replay.matched == 1


async def test_forcing_needs_an_operator_and_a_reason(rim: Rim, world: ReplayWorld) -> None:
    await world.history(DRAFTED)
    request = pb.PlanReplayRequest(
        filter=pb.ReplayFilter(tenant_id=rim.acme.name),
        targets=[pb.ReplayTarget(consumer=pb.ConsumerTarget(consumer="usage"))],
        mode=pb.REPLAY_MODE_FORCE,
    )
    refused = await rim.refused(f"{SERVICE}PlanReplay", request)
    assert refused.reason == "OPERATOR_REQUIRED"
    plan = await rim.call(f"{SERVICE}PlanReplay", request, rim.operator)
    silent = pb.StartReplayRequest(confirmation_token=plan.confirmation_token)
    refused = await rim.refused(f"{SERVICE}StartReplay", silent, rim.operator)
    assert refused.reason == "REPLAY_REASON_MISSING"
    older = plan_of("invoice.*", tenant=rim.acme.name, allow_older_than_inbox=True)
    assert (await rim.refused(f"{SERVICE}PlanReplay", older)).reason == "OPERATOR_REQUIRED"


async def test_all_tenants_need_an_operator_and_the_phrase_and_have_a_replay_each(
    rim: Rim, world: ReplayWorld
) -> None:
    await world.history(DRAFTED, DRAFTED)
    other = ReplayWorld(rim.databases, rim.other.id)
    await other.history(DRAFTED)
    request = pb.PlanReplayRequest(
        filter=pb.ReplayFilter(all_tenants=True, subjects=["invoice.*"]),
        targets=[pb.ReplayTarget(bus=pb.BusTarget())],
    )
    assert (await rim.refused(f"{SERVICE}PlanReplay", request)).reason == "OPERATOR_REQUIRED"
    refused = await rim.refused(f"{SERVICE}PlanReplay", request, rim.operator)
    assert refused.reason == "REPLAY_PHRASE_MISSING"
    request.phrase = PHRASE
    plan = await rim.call(f"{SERVICE}PlanReplay", request, rim.operator)
    assert {t.tenant_id: t.count for t in plan.tenants} == {rim.acme.name: 2, rim.other.name: 1}
    started = await rim.call(
        f"{SERVICE}StartReplay",
        pb.StartReplayRequest(
            confirmation_token=plan.confirmation_token, note="the bus lost a day"
        ),
        rim.operator,
    )
    assert {r.tenant_id: r.matched for r in started.replays} == {
        rim.acme.name: 2,
        rim.other.name: 1,
    }
    mine = await rim.call(f"{SERVICE}ListReplays", pb.ListReplaysRequest())
    assert [r.tenant_id for r in mine.replays] == [rim.acme.name]


async def test_a_plan_shows_samples_an_estimate_and_what_an_endpoint_has(
    rim: Rim, world: ReplayWorld
) -> None:
    ids = await world.history(DRAFTED, DRAFTED, DRAFTED)
    plan = await rim.call(f"{SERVICE}PlanReplay", plan_of("invoice.*", rate_per_second=1))
    names = [encode(Prefix.EVENT, event_id) for event_id in ids]
    assert [sample.event_id for sample in plan.samples] == [names[0], names[-1]]
    assert plan.estimated_duration.seconds == 3
    to_endpoint = pb.PlanReplayRequest(
        filter=pb.ReplayFilter(subjects=["invoice.*"]),
        targets=[
            pb.ReplayTarget(
                endpoint=pb.EndpointTarget(endpoint_id="whe_01h455vb4pex5vsknk084sn02q")
            )
        ],
    )
    refused = await rim.refused(f"{SERVICE}PlanReplay", to_endpoint)
    assert refused.reason == "REPLAY_EXTERNAL_EFFECTS_SUPPRESSED"
    to_endpoint.external_effects = pb.EXTERNAL_EFFECTS_ALLOW
    assert (await rim.call(f"{SERVICE}PlanReplay", to_endpoint)).deliveries.missing == 3
