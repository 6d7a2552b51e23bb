"""Replays as a client and as an operator at a terminal meet them: a real server, real calls, a real process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import timedelta
from typing import Any, Final

import grpc
import pytest
from tollway.replay.v1 import replay_service_pb2 as pb

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.ids import new_id
from billing.services.consumers import WANTED
from billing.services.keys import Scope
from tests.replay_world import CHANGED, DRAFTED, ReplayWorld, in_turn
from tests.server.rim import Rim
from workers.replay import ReplayWorker

PLAN: Final = "/tollway.replay.v1.ReplayService/PlanReplay"
START: Final = "/tollway.replay.v1.ReplayService/StartReplay"
GET: Final = "/tollway.replay.v1.ReplayService/GetReplay"
BUS: Final = [pb.ReplayTarget(bus=pb.BusTarget())]
PATIENCE_S: Final = 60


@pytest.fixture
async def world(rim: Rim) -> ReplayWorld:
    """The log of the tenant `acme`: nothing that was on its way is left in the queue."""
    world = ReplayWorld(rim.databases, rim.acme.id)
    await world.publish()
    return world


def plan_of(*subjects: str, tenant: str = "", **limits: Any) -> pb.PlanReplayRequest:
    selected = pb.ReplayFilter(subjects=subjects, tenant_id=tenant)
    return pb.PlanReplayRequest(filter=selected, targets=BUS, **limits)


async def test_a_replay_is_planned_started_and_shown(rim: Rim, world: ReplayWorld) -> None:
    ids = await world.history(DRAFTED, CHANGED, CHANGED)
    plan = await rim.call(PLAN, plan_of("invoice.*"))
    assert plan.matched == 3
    assert [(s.subject, s.count) for s in plan.subjects] == [
        ("invoice.status.changed", 2),
        ("invoice.generated", 1),
    ]
    counted = {each.consumer: (each.wanted, each.processed) for each in plan.consumers}
    assert counted["webhooks"] == (3, 3)
    assert counted["usage"] == (0, 0)
    assert plan.first_event_id == encode(Prefix.EVENT, ids[0])
    assert plan.last_event_id == encode(Prefix.EVENT, ids[-1])
    left = plan.token_expire_time.ToDatetime() - rim.clock.now().replace(tzinfo=None)
    assert timedelta(minutes=14) < left <= timedelta(minutes=15)

    request = pb.StartReplayRequest(
        confirmation_token=plan.confirmation_token, note="[why]", request_id="once-only"
    )
    started = (await rim.call(START, request)).replay
    assert (started.status, started.matched, started.note) == (pb.REPLAY_STATUS_RUNNING, 3, "[why]")
    # The same request answers like the first time, although the token is used.
    assert (await rim.call(START, request)).replay == started
    shown = (
        await rim.call(GET, pb.GetReplayRequest(replay_id=started.id), rim.acme.keys[Scope.READ])
    ).replay
    assert shown == started


async def test_each_refusal_has_its_code_and_reason(rim: Rim, world: ReplayWorld) -> None:
    await world.history(*in_turn([DRAFTED], 3))
    code = grpc.StatusCode

    async def refusal(method: str, request: Any, key: str = "") -> tuple[grpc.StatusCode, str]:
        told = await rim.refused(method, request, key)
        return told.code, told.reason

    untargeted = pb.PlanReplayRequest(filter=pb.ReplayFilter())
    assert await refusal(PLAN, untargeted) == (code.INVALID_ARGUMENT, "REPLAY_TARGET_MISSING")
    large = await rim.refused(PLAN, plan_of("invoice.*", max_events=2))
    assert (large.code, large.reason) == (code.FAILED_PRECONDITION, "REPLAY_TOO_LARGE")
    assert large.metadata == {"matched": "3", "max_events": "2"}
    assert await refusal(PLAN, plan_of("*.changed")) == (code.INVALID_ARGUMENT, "SUBJECT_INVALID")
    writer = rim.acme.keys[Scope.WRITE]
    assert await refusal(PLAN, plan_of(), writer) == (code.PERMISSION_DENIED, "SCOPE_MISSING")

    plan = await rim.call(PLAN, plan_of("invoice.*"))
    request = pb.StartReplayRequest(confirmation_token=plan.confirmation_token, note="why")
    other = rim.other.keys[Scope.ADMIN]
    for key in (other, rim.operator):
        assert await refusal(START, request, key) == (
            code.PERMISSION_DENIED,
            "REPLAY_ACTOR_MISMATCH",
        )
    forged = pb.StartReplayRequest(confirmation_token=plan.confirmation_token[:-8] + "AAAAAAAA")
    assert await refusal(START, forged) == (code.INVALID_ARGUMENT, "REPLAY_TOKEN_INVALID")
    # The clock of the server is set ahead, and nothing is made under it.
    rim.clock.shift = timedelta(minutes=16)
    assert await refusal(START, request) == (code.FAILED_PRECONDITION, "REPLAY_TOKEN_EXPIRED")
    rim.clock.shift = timedelta()

    started = (await rim.call(START, request)).replay
    used = await rim.refused(START, request)
    assert (used.reason, used.metadata) == ("REPLAY_TOKEN_USED", {"replay": started.id})
    second = await rim.call(PLAN, plan_of("invoice.*"))
    request = pb.StartReplayRequest(confirmation_token=second.confirmation_token)
    busy = await rim.refused(START, request)
    assert (busy.reason, busy.metadata) == ("REPLAY_TARGET_BUSY", {"replay": started.id})
    await world.execute("UPDATE replays SET status = 'finished'")
    await world.emit(DRAFTED)
    drifted = await rim.refused(START, request)
    assert (drifted.code, drifted.reason) == (code.FAILED_PRECONDITION, "REPLAY_RANGE_DRIFTED")
    assert drifted.metadata == {"planned": "3", "found": "4"}
    unknown = pb.GetReplayRequest(replay_id=encode(Prefix.REPLAY, new_id(rim.clock.now())))
    assert await refusal(GET, unknown) == (code.NOT_FOUND, "REPLAY_NOT_FOUND")


async def test_only_an_operator_replays_another_tenants_events(
    rim: Rim, world: ReplayWorld
) -> None:
    await world.history(DRAFTED, CHANGED)
    named = plan_of("invoice.*", tenant=rim.acme.name)
    other = rim.other.keys[Scope.ADMIN]
    assert (await rim.refused(PLAN, named, other)).reason == "OPERATOR_REQUIRED"
    assert (await rim.refused(PLAN, plan_of(), rim.operator)).fields.keys() == {"tenant_id"}
    nobody = plan_of(tenant=encode(Prefix.TENANT, new_id(rim.clock.now())))
    assert (await rim.refused(PLAN, nobody, rim.operator)).reason == "TENANT_NOT_FOUND"

    plan = await rim.call(PLAN, named, rim.operator)
    assert plan.matched == 2
    request = pb.StartReplayRequest(confirmation_token=plan.confirmation_token, request_id="again")
    started = (await rim.call(START, request, rim.operator)).replay
    assert (await rim.call(START, request, rim.operator)).replay == started
    assert started.tenant_id == rim.acme.name
    show = pb.GetReplayRequest(replay_id=started.id)
    for key in ("", rim.operator):
        assert (await rim.call(GET, show, key)).replay == started
    assert (await rim.refused(GET, show, other)).reason == "REPLAY_NOT_FOUND"
    elsewhere = [("tollway-tenant", rim.other.name)]
    assert (
        await rim.refused(GET, show, rim.operator, metadata=elsewhere)
    ).reason == "REPLAY_NOT_FOUND"
    (audit,) = await world.fetch("SELECT * FROM audit_log WHERE method = $1", START)
    assert (audit["tenant_id"], audit["resource"]) == (rim.acme.id, started.id)
    assert audit["actor"].startswith("opr_")


# --- at a terminal


async def tollway(rim: Rim, *arguments: str, answers: str = "") -> tuple[int, str]:
    """Runs `tollway replay …`; the exit status, and what it printed."""
    environment = os.environ | {
        "TOLLWAY_ADDRESS": f"127.0.0.1:{rim.server.port}",
        "TOLLWAY_API_KEY": rim.acme.keys[Scope.ADMIN],
        "COLUMNS": "120",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "cli.main", "replay", *arguments),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await process.communicate(answers.encode())
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_the_command_plans_by_default_and_starts_by_the_token_alone(
    rim: Rim, world: ReplayWorld
) -> None:
    ids = await world.history(*in_turn([DRAFTED, CHANGED], 6))
    status, told = await tollway(rim, "--subject", "invoice.*", "--to", "bus", "--json")
    assert status == 0, told
    assert json.loads(told)["matched"] == "6"
    status, told = await tollway(
        rim, "plan", "--subject", "invoice.*", "--to", "bus", "--rate", "2"
    )
    assert status == 0, told
    assert "Dry run: nothing was sent." in told
    assert "invoice.generated" in told
    assert "takes about 0:00:03" in told
    assert await world.value("SELECT count(*) FROM replays") == 0
    token = told.split("--token ")[1].strip()

    status, told = await tollway(rim, "--subject", "invoice.*")
    assert (status, told) == (
        1,
        "tollway: Name a target for the replay, such as the bus; there is none by default. (REPLAY_TARGET_MISSING)\n",
    )
    status, told = await tollway(rim, "start", "--no-wait", answers=f"{token}\nbecause [of] it\n")
    assert status == 0, told
    assert "because [of] it" in told
    name = next(word for word in told.split() if word.startswith("rpl_"))
    assert await world.value("SELECT note FROM replays") == "because [of] it"

    watching = asyncio.create_task(tollway(rim, "watch", name))
    await carry_out(world, decode(Prefix.REPLAY, name), watching)
    status, told = await watching
    assert status == 0, told
    assert "6/6" in told
    assert "finished" in told
    assert await world.value("SELECT count(*) FROM outbox WHERE event_id = ANY ($1)", ids) == 0


async def carry_out(world: ReplayWorld, replay_id: Any, watching: asyncio.Task[Any]) -> None:
    """Stands for the workers, until whoever watches has seen the end."""
    await world.execute("UPDATE replays SET armed_at = armed_at - interval '1 h'")
    worker = ReplayWorker(world.databases.worker, world.databases.clock, WANTED)
    while not watching.done():
        await worker.step()
        await world.take(replay_id)
        await asyncio.wait([watching], timeout=0.02)
