"""Recoveries and figures as a client meets them: real calls, the command line, a real worker and sender."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tollway.webhook.v1 import delivery_service_pb2 as delivery_pb
from tollway.webhook.v1 import recovery_service_pb2 as pb

from billing.domain.ids import Prefix, decode, encode
from billing.services import webhook_endpoints as endpoints
from billing.services import webhook_recoveries
from billing.services.keys import NewKey, Scope, create_key
from tests.conftest import Databases
from tests.server.rim import open_rim
from tests.server.test_webhook_delivery_calls import Client
from tests.webhook_world import WebhookWorld, ok, send_all, status, webhook_world
from workers.webhooks.recoveries import RecoveryWorker

SERVICE = "/tollway.webhook.v1.WebhookRecoveryService"


@pytest.fixture
async def client(databases: Databases) -> AsyncIterator[Client]:
    async with webhook_world(databases) as world, open_rim(databases) as rim:
        draft = NewKey("test", (Scope.ADMIN,))
        async with databases.worker.transaction() as tx:
            _, key = await create_key(
                tx, world.tenant_id, draft, world.cause, now=databases.clock.now()
            )
        yield Client(world, rim, key)


async def ask(client: Client, method: str, **fields: Any) -> Any:
    request = getattr(pb, f"{method}Request")(**fields)
    return await client.rim.call(f"{SERVICE}/{method}", request, client.key)


async def refused(client: Client, method: str, **fields: Any) -> str:
    request = getattr(pb, f"{method}Request")(**fields)
    return (await client.rim.refused(f"{SERVICE}/{method}", request, client.key)).reason


def since(client: Client, hours: float = 1.0) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(client.world.databases.clock.now() - timedelta(hours=hours))
    return stamp


def until(client: Client) -> Timestamp:
    """A little later: what was made in this millisecond is before it."""
    stamp = Timestamp()
    stamp.FromDatetime(client.world.databases.clock.now() + timedelta(seconds=5))
    return stamp


async def dead_and_delivered(world: WebhookWorld) -> tuple[str, list[str], list[str]]:
    """An endpoint with 5 dead deliveries and 3 that arrived."""
    webhook = await world.endpoint("/hook", "customer.*", answer=status(500))
    dead = await world.deliverable(5)
    await world.rows("UPDATE webhook_deliveries SET attempts = 9")
    async with world.sender() as sender:
        await send_all(sender)
        world.receiver.answers["/hook"] = ok
        delivered = await world.deliverable(3)
        await send_all(sender)
    assert await world.statuses() == {"dead": 5, "delivered": 3}
    return encode(Prefix.WEBHOOK_ENDPOINT, webhook.id), dead, delivered


async def work(world: WebhookWorld) -> None:
    """Steps until no recovery runs; the rate's pauses are passed by shifting its row."""
    worker = RecoveryWorker(world.databases.worker, world.databases.clock)
    while await world.rows("SELECT 1 FROM webhook_recoveries WHERE status = 'running'"):
        await world.rows("UPDATE webhook_recoveries SET armed_at = armed_at - interval '1 second'")
        await worker.step()


async def test_what_is_dead_is_previewed_and_sent_again_under_ids_of_its_own(
    client: Client,
) -> None:
    world = client.world
    endpoint, dead, _ = await dead_and_delivered(world)
    wanted = pb.RecoveryFilter(endpoint_id=endpoint, since=since(client), until=until(client))
    told = await ask(client, "PreviewRecovery", filter=wanted)
    assert (told.matched, told.estimated_seconds, told.truncated) == (5, 1, False)
    counts = {(c.state, c.subject): (c.events, c.taken) for c in told.counts}
    assert counts["dead", "customer.created"] == (5, True)
    assert counts["delivered", "customer.created"] == (3, False)
    assert await world.statuses() == {"dead": 5, "delivered": 3}

    started = await ask(
        client, "RecoverEndpoint", filter=wanted, note="it was down", request_id="once-0001"
    )
    again = await ask(
        client, "RecoverEndpoint", filter=wanted, note="it was down", request_id="once-0001"
    )
    assert again == started
    assert (started.recovery.matched, started.recovery.made) == (5, 0)
    await work(world)
    async with world.sender() as sender:
        await send_all(sender)
    got = await ask(client, "GetRecovery", recovery_id=started.recovery.id)
    assert (got.recovery.status, got.recovery.made) == (pb.RECOVERY_STATUS_FINISHED, 5)
    assert {f"{event}_1" for event in dead} <= set(world.receiver.ids("/hook"))
    assert await world.statuses() == {"dead": 5, "delivered": 8}
    [audit] = await world.rows("SELECT * FROM audit_log WHERE method LIKE '%RecoverEndpoint'")
    assert (audit["resource"], audit["note"]) == (started.recovery.id, "it was down")
    await world.check_balance()

    # Their latest deliveries have arrived, so nothing of them is dead any more.
    assert (await ask(client, "PreviewRecovery", filter=wanted)).matched == 0


async def test_missed_events_are_sent_to_an_endpoint_that_came_later(client: Client) -> None:
    world = client.world
    await world.endpoint("/first", "customer.*")
    missed = await world.deliverable(4)
    later = await world.endpoint("/later", "customer.*")
    name = encode(Prefix.WEBHOOK_ENDPOINT, later.id)
    wanted = pb.RecoveryFilter(
        endpoint_id=name,
        since=since(client),
        until=until(client),
        states=[pb.RECOVERABLE_STATE_MISSED],
    )
    assert (await ask(client, "PreviewRecovery", filter=wanted)).matched == 4
    await ask(client, "RecoverEndpoint", filter=wanted)
    await work(world)
    async with world.sender() as sender:
        await send_all(sender)
    assert sorted(world.receiver.ids("/later")) == sorted(missed)
    await world.check_balance()


async def test_a_recovery_keeps_to_its_rate_and_goes_on_where_a_killed_one_was(
    client: Client,
) -> None:
    world, clock = client.world, client.world.databases.clock
    endpoint, dead, _ = await dead_and_delivered(world)
    wanted = pb.RecoveryFilter(
        endpoint_id=endpoint, since=since(client), until=until(client), rate_per_second=2
    )
    job = (await ask(client, "RecoverEndpoint", filter=wanted)).recovery
    recovery_id = decode(Prefix.RECOVERY, job.id, path="")

    async def a_second_passes() -> None:
        await world.rows("UPDATE webhook_recoveries SET armed_at = now() - interval '1 hour'")

    await a_second_passes()
    with pytest.raises(RuntimeError, match="killed"):
        async with world.databases.worker.transaction() as tx:
            made = await webhook_recoveries.advance(
                tx, world.tenant_id, recovery_id, now=clock.now()
            )
            assert made == 2, "an hour without a worker is not saved up"
            raise RuntimeError("killed before the commit")
    worker = RecoveryWorker(world.databases.worker, clock)
    steps = []
    for _ in range(3):
        await a_second_passes()
        steps.append(await worker.step())
        assert await worker.step() == 0, "the rate is used"
    assert steps == [2, 2, 1]
    rows = await world.rows("SELECT event_id FROM webhook_deliveries WHERE nonce = 1")
    assert sorted(encode(Prefix.EVENT, row["event_id"]) for row in rows) == sorted(dead)
    await world.check_balance()


async def test_one_recovery_at_a_time_that_can_be_canceled(client: Client) -> None:
    endpoint, _, _ = await dead_and_delivered(client.world)
    wanted = pb.RecoveryFilter(endpoint_id=endpoint, since=since(client), until=until(client))
    job = (await ask(client, "RecoverEndpoint", filter=wanted)).recovery
    assert await refused(client, "RecoverEndpoint", filter=wanted) == "RECOVERY_RUNNING"
    ended = (await ask(client, "CancelRecovery", recovery_id=job.id)).recovery
    assert ended.status == pb.RECOVERY_STATUS_CANCELED
    audit = await client.world.rows(
        "SELECT method, resource FROM audit_log ORDER BY id DESC LIMIT 1"
    )
    assert [tuple(row) for row in audit] == [(f"{SERVICE}/CancelRecovery", job.id)]
    assert await refused(client, "CancelRecovery", recovery_id=job.id) == "RECOVERY_NOT_RUNNING"
    other = encode(Prefix.RECOVERY, client.world.tenant_id)
    assert await refused(client, "GetRecovery", recovery_id=other) == "RECOVERY_NOT_FOUND"
    listed = await ask(client, "ListRecoveries", endpoint_id=endpoint)
    assert [one.id for one in listed.recoveries] == [job.id]
    backwards = pb.RecoveryFilter(endpoint_id=endpoint, since=until(client), until=since(client))
    assert await refused(client, "PreviewRecovery", filter=backwards) == "INVALID_ARGUMENT"


async def test_a_recovery_ends_with_its_endpoint_and_parks_while_that_is_disabled(
    client: Client,
) -> None:
    world, clock = client.world, client.world.databases.clock
    endpoint, _, _ = await dead_and_delivered(world)
    wanted = pb.RecoveryFilter(
        endpoint_id=endpoint, since=since(client), until=until(client), rate_per_second=2
    )
    job = (await ask(client, "RecoverEndpoint", filter=wanted)).recovery
    webhook_id = decode(Prefix.WEBHOOK_ENDPOINT, endpoint, path="")
    worker = RecoveryWorker(world.databases.worker, clock)
    async with world.databases.api.transaction(world.tenant_id) as tx:
        reason = endpoints.DisabledReason.TENANT
        await endpoints.disable_endpoint(
            tx, world.tenant_id, webhook_id, reason, world.cause, now=clock.now()
        )
    await world.rows("UPDATE webhook_recoveries SET armed_at = now() - interval '1 hour'")
    assert await worker.step() == 2
    assert (await world.statuses())["parked"] == 2
    async with world.databases.api.transaction(world.tenant_id) as tx:
        await endpoints.delete_endpoint(
            tx, world.tenant_id, webhook_id, world.cause, now=clock.now()
        )
    await work(world)
    got = (await ask(client, "GetRecovery", recovery_id=job.id)).recovery
    assert (got.status, got.made) == (pb.RECOVERY_STATUS_CANCELED, 2)
    await world.check_balance()


async def test_the_command_line_previews_sends_and_lists(client: Client) -> None:
    world = client.world
    endpoint, dead, _ = await dead_and_delivered(world)
    day = f"{world.databases.clock.now() - timedelta(days=1):%Y-%m-%d}"
    told = await client.run("recover", endpoint, "--since", day)
    assert "5 events would be sent in 1 s; add --start" in told
    sent = await client.run("recover", endpoint, "--since", day, "--start", "--no-wait")
    assert "sends 5 events" in sent
    await work(world)
    async with world.sender() as sender:
        await send_all(sender)
    listed = await client.run("recoveries", "--endpoint", endpoint)
    assert "finished" in listed
    assert len(set(world.receiver.ids("/hook"))) == 5 + 3 + len(dead)


async def test_figures_say_how_endpoints_are_served(client: Client) -> None:
    world = client.world
    good = await world.endpoint("/good", "customer.*")
    bad = await world.endpoint("/bad", "customer.*", answer=status(500))
    await world.deliverable(20)
    async with world.sender() as sender:
        await send_all(sender)
    answer = await client.ask("GetStats")
    # A window of more than there is: as much as there is, however large.
    ages = Duration(seconds=2**63 - 1, nanos=1)
    assert (await client.ask("GetStats", window=ages)).tenant == answer.tenant
    stats = {one.endpoint_id: one for one in answer.endpoints}
    first = stats[encode(Prefix.WEBHOOK_ENDPOINT, good.id)]
    assert (first.figures.deliveries, first.figures.first_attempt_delivered) == (20, 20)
    assert 0 < first.figures.p50_ms <= first.figures.p95_ms <= first.figures.p99_ms
    assert (first.undelivered, first.breaker) == (0, delivery_pb.BREAKER_STATE_CLOSED)
    second = stats[encode(Prefix.WEBHOOK_ENDPOINT, bad.id)]
    assert (second.figures.attempted, second.figures.delivered) == (10, 0)
    assert (second.undelivered, second.failures_in_a_row) == (20, 10)
    assert second.breaker in (
        delivery_pb.BREAKER_STATE_OPEN,
        delivery_pb.BREAKER_STATE_HALF_OPEN,
    )
    assert second.HasField("oldest_undelivered_time")
    assert second.HasField("failing_since")
    assert (answer.tenant.deliveries, answer.tenant.delivered) == (40, 20)
    table = await client.run("stats")
    assert "66.7 %" in table  # of the tenant's 30 first attempts
    lines = await client.run("deliveries", "--endpoint", second.endpoint_id)
    assert "20 undelivered" in lines
    assert "breaker" in lines
    assert "the tenant" in await client.run("dlq")
