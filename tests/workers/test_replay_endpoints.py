"""Replay path, step 3, to an endpoint: what it never got and wants, under the id that it always had."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest
from tollway.webhook.v1 import webhook_events_pb2

from billing.domain.ids import Prefix, encode
from billing.domain.replay import Effects as Outside
from billing.domain.replay import Target, TargetKind
from billing.services.replay_safety import EffectsSuppressed
from billing.services.replays import ReplayView
from tests.conftest import Databases
from tests.replay_world import DRAFTED, ReplayWorld
from tests.webhook_world import WebhookWorld, ok, send_all, status, webhook_world
from tests.workers.test_replay import run_out, worker_of


@pytest.fixture
async def hooks(databases: Databases) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(databases) as opened:
        yield opened


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
