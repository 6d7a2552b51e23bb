"""Webhook path, after step 2: endpoints that fail for long, the breaker, probes, and faults of the house."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tollway.event.v1 import event_pb2
from tollway.webhook.v1 import webhook_events_pb2

from billing.domain.backoff import FORGIVEN_MAX, WEBHOOK_ATTEMPTS_MAX
from billing.domain.ids import Prefix, encode
from billing.domain.webhook import BREAKER_FAILURES
from billing.services import webhook_endpoints as endpoints
from billing.services.webhook_explain import Verdict, explain
from tests.conftest import Databases
from tests.webhook_world import WebhookWorld, ok, send_all, status, webhook_world


@pytest.fixture
async def world(databases: Databases) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(databases) as world:
        yield world


async def told(world: WebhookWorld, subject: str) -> list[event_pb2.Event]:
    rows = await world.rows(
        "SELECT envelope FROM billing_events WHERE subject = $1 ORDER BY id", subject
    )
    return [event_pb2.Event.FromString(row["envelope"]) for row in rows]


async def fail_for_5_days(world: WebhookWorld) -> None:
    """Its first failure was 5 days ago, as the next sender reads, and the next attempt is due."""
    await world.rows("UPDATE webhook_health SET failing_since = failing_since - interval '5 days'")
    await world.make_due()


async def test_ten_failures_in_a_row_open_the_breaker_and_what_waits_costs_no_attempt(
    world: WebhookWorld,
) -> None:
    webhook = await world.endpoint("/down", answer=status(500))
    await world.endpoint("/other")
    await world.deliverable(100)
    async with world.sender() as sender:
        await send_all(sender)
        assert len(world.receiver.ids("/down")) == BREAKER_FAILURES
        assert len(world.receiver.ids("/other")) == 100
        [row] = await world.rows("SELECT failures, open_until FROM webhook_health")
        assert (row["failures"], row["open_until"] is None) == (BREAKER_FAILURES, False)
        waiting = await world.rows(
            "SELECT event_id FROM webhook_deliveries WHERE webhook_id = $1 AND attempts = 0",
            webhook.id,
        )
        assert len(waiting) == 100 - BREAKER_FAILURES
        async with world.databases.api.transaction(world.tenant_id, snapshot=True) as tx:
            now = world.databases.clock.now()
            why = await explain(tx, world.tenant_id, webhook.id, waiting[0]["event_id"], now=now)
    assert why.verdict is Verdict.THROTTLED
    assert "after 10 failures in a row nothing is sent to it until" in why.text


async def test_half_open_one_attempt_at_a_time_is_made_until_one_succeeds(
    world: WebhookWorld,
) -> None:
    webhook = await world.endpoint("/down", answer=status(500))
    await world.deliverable(100)
    async with world.sender() as sender:
        await send_all(sender)
        for round_ in (1, 2):
            # The pause is over.
            sender.schedule.release(webhook.id)
            await send_all(sender)
            assert len(world.receiver.ids("/down")) == BREAKER_FAILURES + round_
        world.receiver.answers["/down"] = ok
        sender.schedule.release(webhook.id)
        await send_all(sender)
        await world.make_due()
        await send_all(sender)
    assert await world.statuses() == {"delivered": 100}
    assert not await world.rows("SELECT 1 FROM webhook_health")


async def test_five_days_of_only_failures_disable_and_park_and_tell(world: WebhookWorld) -> None:
    webhook = await world.endpoint("/down", answer=status(500))
    await world.endpoint("/other")
    await world.deliverable(3)
    async with world.sender() as sender:
        await send_all(sender)
    assert await world.statuses() == {"pending": 3, "delivered": 3}
    await fail_for_5_days(world)
    async with world.sender() as sender:
        await send_all(sender)
    assert await world.statuses() == {"parked": 3, "delivered": 3}
    [row] = await world.rows("SELECT disabled_reason FROM webhooks WHERE id = $1", webhook.id)
    assert row["disabled_reason"] == "failing"
    [event] = await told(world, "webhook.endpoint.disabled")
    payload = webhook_events_pb2.WebhookEndpointDisabled()
    assert event.data.Unpack(payload)
    assert (payload.reason, event.actor) == ("failing", "worker:sender")
    await world.check_balance()


async def test_one_success_starts_the_five_days_again(world: WebhookWorld) -> None:
    await world.endpoint("/shaky", answer=status(500))
    await world.deliverable(1)
    async with world.sender() as sender:
        await send_all(sender)
    await fail_for_5_days(world)
    async with world.sender() as sender:
        world.receiver.answers["/shaky"] = ok
        await send_all(sender)
        world.receiver.answers["/shaky"] = status(500)
        await world.deliverable(1)
        await send_all(sender)
    [row] = await world.rows(
        "SELECT now() - failing_since < interval '1 day' AS recent FROM webhook_health"
    )
    assert row["recent"]
    assert not await world.rows("SELECT 1 FROM webhooks WHERE status = 'disabled'")


async def test_a_probe_that_is_answered_enables_again_and_everything_parked_is_sent(
    world: WebhookWorld,
) -> None:
    await world.endpoint("/down", answer=status(500))
    await world.deliverable(5)
    async with world.sender() as sender:
        await send_all(sender)
    await fail_for_5_days(world)
    async with world.sender() as sender:
        await send_all(sender)
        before = len(world.receiver.got)
        await send_all(sender)
        assert len(world.receiver.got) == before, "the first probe is not due yet"
        await world.rows("UPDATE webhook_health SET probe_at = now()")
        await send_all(sender)
        assert len(world.receiver.got) == before + 1, "a probe is one attempt"
        assert await world.statuses() == {"parked": 5}
        [probed] = await world.rows(
            "SELECT attempts, forgiven FROM webhook_deliveries WHERE forgiven > 0"
        )
        assert probed["forgiven"] == 1

        world.receiver.answers["/down"] = ok
        await world.rows("UPDATE webhook_health SET probe_at = now()")
        sender.discover_next()
        await send_all(sender)
        sender.discover_next()
        await send_all(sender)
    assert await world.statuses() == {"delivered": 5}
    assert [event.actor for event in await told(world, "webhook.endpoint.recovered")] == [
        "worker:sender"
    ]
    assert not await world.rows("SELECT 1 FROM webhook_health")
    await world.check_balance()


async def test_a_tenant_that_enables_its_endpoint_has_five_days_again(world: WebhookWorld) -> None:
    webhook = await world.endpoint("/down", answer=status(500))
    await world.deliverable(1)
    async with world.sender() as sender:
        await send_all(sender)
    await fail_for_5_days(world)
    async with world.sender() as sender:
        await send_all(sender)
        async with world.databases.api.transaction(world.tenant_id) as tx:
            now = world.databases.clock.now()
            await endpoints.enable_endpoint(tx, world.tenant_id, webhook.id, world.cause, now=now)
        sender.discover_next()
        await send_all(sender)
    assert await world.statuses() == {"pending": 1}
    assert not await told(world, "webhook.endpoint.recovered")


async def test_a_delivery_that_is_given_up_is_told_of_once(world: WebhookWorld) -> None:
    webhook = await world.endpoint("/down", "customer.*", "webhook.*", answer=status(500))
    [event_id] = await world.deliverable()
    ping = webhook_events_pb2.WebhookPing(endpoint_id=encode(Prefix.WEBHOOK_ENDPOINT, webhook.id))
    [arriving] = await world.emit(
        1, webhook_events_pb2.WebhookEndpointEnabled(endpoint_id=ping.endpoint_id)
    )
    await world.fan_out([arriving])
    await world.rows("UPDATE webhook_deliveries SET attempts = $1", WEBHOOK_ATTEMPTS_MAX - 1)
    async with world.sender() as sender:
        await send_all(sender)
        await world.make_due()
        await send_all(sender)
    assert await world.statuses() == {"dead": 2}
    # The other one carried news of webhooks, of which there would be no end.
    [event] = await told(world, "webhook.delivery.exhausted")
    payload = webhook_events_pb2.WebhookDeliveryExhausted()
    assert event.data.Unpack(payload)
    assert (payload.event_id, payload.endpoint_id) == (event_id, ping.endpoint_id)
    assert (payload.attempts, payload.subject) == (WEBHOOK_ATTEMPTS_MAX, "customer.created")
    assert event.causation_id == event_id


class Names:
    """The machine's name servers, which answer or do not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.down = True
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.look_up)

    def look_up(self, host: str, *rest: Any, **more: Any) -> Any:
        if host.endswith(".test") and (self.down or host.startswith("broken")):
            raise socket.gaierror(socket.EAI_AGAIN, "temporary failure in name resolution")
        return self._real("127.0.0.1" if host.endswith(".test") else host, *rest, **more)


async def named(world: WebhookWorld, host: str) -> None:
    """An endpoint at the receiver, under a name."""
    webhook = await world.endpoint(f"/{host}")
    url = f"http://{host}.test:{world.receiver.port}/{host}"
    await world.rows("UPDATE webhooks SET url = $1 WHERE id = $2", url, webhook.id)


async def test_while_no_name_server_answers_nothing_is_counted_against_anybody(
    world: WebhookWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(monkeypatch)
    await named(world, "hook")
    await world.deliverable(20)
    async with world.sender() as sender:
        for _ in range(WEBHOOK_ATTEMPTS_MAX + 2):
            await send_all(sender)
            await world.make_due()
        assert await world.statuses() == {"pending": 20}
        assert not await world.rows("SELECT 1 FROM webhook_health")
        assert {a["error"].split(":")[0] for a in await world.attempts()} == {"house"}
        names.down = False
        # A machine under load may fail one for another reason; it is due again.
        while await world.statuses() != {"delivered": 20}:
            await world.make_due()
            await send_all(sender)
    assert len(set(world.receiver.ids("/hook"))) == 20


async def test_a_name_that_alone_gets_no_answer_is_its_owners_fault(
    world: WebhookWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(monkeypatch)
    names.down = False
    await named(world, "broken")
    await named(world, "hook")
    await world.deliverable(1)
    asked = names.look_up

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        # The broken one fails only when the other has its answer.
        if host.startswith("broken"):
            while not world.receiver.ids("/hook"):
                pass
        return asked(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with world.sender() as sender:
        await send_all(sender)
    [failed] = [a for a in await world.attempts() if a["outcome"] == "failed"]
    assert failed["error"].startswith("name:")
    assert len(await world.rows("SELECT 1 FROM webhook_health")) == 1


async def test_a_fault_of_the_house_is_forgiven_only_so_often(world: WebhookWorld) -> None:
    await world.endpoint("/hook")
    await world.rows("UPDATE webhook_secrets SET ciphertext = 'x'")
    await world.deliverable(1)
    await world.rows(
        "UPDATE webhook_deliveries SET attempts = $1, forgiven = $2",
        FORGIVEN_MAX - 1 + WEBHOOK_ATTEMPTS_MAX - 1,
        FORGIVEN_MAX - 1,
    )
    async with world.sender() as sender:
        await send_all(sender)
        assert await world.statuses() == {"pending": 1}
        await world.make_due()
        await send_all(sender)
    assert await world.statuses() == {"dead": 1}


async def test_what_was_sent_stands_with_the_attempt_and_hides_what_is_the_tenants(
    world: WebhookWorld,
) -> None:
    await world.endpoint("/hook", headers={"Authorization": "Bearer secret"})
    [event_id] = await world.deliverable()
    async with world.sender() as sender:
        await send_all(sender)
    [attempt] = await world.attempts()
    [(_, received, _)] = world.receiver.got
    sent = json.loads(attempt["request_headers"])
    lower = {name.lower(): value for name, value in received.items()}
    assert lower["authorization"] == "Bearer secret"
    assert sent["authorization"] == "…"
    assert sent["webhook-id"] == event_id
    assert sent["webhook-signature"] == lower["webhook-signature"]
