"""Webhook path: the life of an endpoint, against deliveries that are made and sent at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import pytest
import standardwebhooks
from aiohttp import web
from queries.models import Webhook
from tollway.event.v1 import event_pb2

from billing.domain.errors import EtagMismatch, InvalidTransition
from billing.runtime.db import Connection
from billing.services import webhook_endpoints as endpoints
from billing.services import webhook_secrets, webhooks
from billing.services.webhook_fanout import fan_out
from billing.services.webhook_headers import HeaderNotAllowed, check_headers
from tests.conftest import Databases
from tests.webhook_world import VAULT, WebhookWorld, incoming, ok, send_all, webhook_world


@pytest.fixture
async def world(databases: Databases) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(databases) as world:
        yield world


class Steps:
    """An endpoint's changes, each in a transaction of its own as the API makes it."""

    def __init__(self, world: WebhookWorld, webhook: Webhook) -> None:
        self.world, self.webhook = world, webhook
        self.ids = world.tenant_id, webhook.id

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        return self.world.databases.api.transaction(self.world.tenant_id)

    async def disable(self) -> Webhook:
        now, cause = self.world.databases.clock.now(), self.world.cause
        async with self.transaction() as tx:
            return await endpoints.disable_endpoint(
                tx, *self.ids, endpoints.DisabledReason.TENANT, cause, now=now
            )

    async def enable(self) -> Webhook:
        now, cause = self.world.databases.clock.now(), self.world.cause
        async with self.transaction() as tx:
            return await endpoints.enable_endpoint(tx, *self.ids, cause, now=now)

    async def delete(self) -> Webhook:
        now, cause = self.world.databases.clock.now(), self.world.cause
        async with self.transaction() as tx:
            return await endpoints.delete_endpoint(tx, *self.ids, cause, now=now)

    async def update(self, change: endpoints.EndpointChange) -> Webhook:
        now, cause = self.world.databases.clock.now(), self.world.cause
        async with self.transaction() as tx:
            return await endpoints.update_endpoint(tx, *self.ids, change, cause, now=now)

    async def rotate(self) -> str:
        now, cause = self.world.databases.clock.now(), self.world.cause
        async with self.transaction() as tx:
            secret, _ = await webhook_secrets.rotate_secret(tx, *self.ids, cause, VAULT, now=now)
        return secret.to_text()


async def test_what_a_disabled_endpoint_missed_is_sent_when_it_is_enabled(
    world: WebhookWorld,
) -> None:
    steps = Steps(world, await world.endpoint("/a"))
    await world.deliverable(2)
    assert (await steps.disable()).disabled_reason == "tenant"
    await world.deliverable(3)
    assert await world.statuses() == {"parked": 5}
    async with world.sender() as sender:
        assert await send_all(sender) == 0
        assert (await steps.enable()).disabled_reason == ""
        assert await send_all(sender) == 5
    assert await world.statuses() == {"delivered": 5}
    with pytest.raises(InvalidTransition):
        await steps.enable()
    await world.check_balance()


async def test_a_deleted_endpoint_keeps_its_history_and_gets_nothing_more(
    world: WebhookWorld,
) -> None:
    webhook = await world.endpoint("/a")
    steps = Steps(world, webhook)
    await world.deliverable(2)
    async with world.sender() as sender:
        await send_all(sender)
        await world.deliverable(3)
        await steps.delete()
        await world.deliverable(1)
        assert await send_all(sender) == 0
    assert await world.statuses() == {"delivered": 2, "canceled": 3}
    async with steps.transaction() as tx:
        kept, counts = await webhooks.get_endpoint(tx, world.tenant_id, webhook.id)
        assert not await endpoints.list_endpoints(tx, world.tenant_id, before=None, limit=9)
    assert (kept.status, counts.matched, counts.canceled) == ("deleted", 5, 3)
    with pytest.raises(webhooks.EndpointNotFound):
        await steps.delete()
    await world.check_balance()


@pytest.mark.parametrize(("step", "status"), [("disable", "parked"), ("delete", "canceled")])
async def test_a_change_waits_for_a_fan_out_under_way_and_moves_what_it_made(
    world: WebhookWorld, step: str, status: str
) -> None:
    steps = Steps(world, await world.endpoint("/a"))
    arriving = await world.emit(3)
    async with world.databases.worker.transaction() as tx:
        await fan_out(tx, arriving, world.databases.clock.now())
        changing = asyncio.create_task(getattr(steps, step)())
        await _somebody_waits(world)
    await changing
    assert await world.statuses() == {status: 3}
    await world.check_balance()


async def test_a_fan_out_that_waited_for_a_change_begins_as_it_says(world: WebhookWorld) -> None:
    disabled, deleted = await world.endpoint("/a"), await world.endpoint("/b")
    arriving = await world.emit(2)
    now, cause = world.databases.clock.now(), world.cause
    tenant, reason = world.tenant_id, endpoints.DisabledReason.TENANT
    async with world.databases.api.transaction(tenant) as tx:
        await endpoints.disable_endpoint(tx, tenant, disabled.id, reason, cause, now=now)
        await endpoints.delete_endpoint(tx, tenant, deleted.id, cause, now=now)
        fanning = asyncio.create_task(world.fan_out(arriving))
        await _somebody_waits(world)
    await fanning
    assert await world.statuses() == {"parked": 2}
    await world.check_balance()


async def test_a_delivery_that_arrives_while_it_is_parked_is_delivered(world: WebhookWorld) -> None:
    release = asyncio.Event()

    async def slowly(request: web.Request) -> web.StreamResponse:
        await release.wait()
        return await ok(request)

    steps = Steps(world, await world.endpoint("/a", answer=slowly))
    await world.deliverable()
    async with world.sender() as sender:
        assert await sender.step() == 1
        await world.receiver.arrived("/a")
        await steps.disable()
        release.set()
        await sender.settled()
    assert await world.statuses() == {"delivered": 1}
    await world.check_balance()


async def test_headers_and_a_thin_payload_are_sent_and_cannot_replace_the_signature(
    world: WebhookWorld,
) -> None:
    steps = Steps(world, await world.endpoint("/a"))
    change = endpoints.EndpointChange(
        headers={"X-Team": "billing"}, payload=webhooks.Payload.THIN, metadata={"a": "b"}
    )
    await steps.update(change)
    await world.deliverable()
    async with world.sender() as sender:
        await send_all(sender)
    [(_, headers, _)] = world.receiver.got
    assert {name.lower(): value for name, value in headers.items()}["x-team"] == "billing"
    [body] = world.receiver.bodies("/a")
    assert body["data"] == {"resource_id": body["resource_id"]}
    assert world.receiver.verified == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "a"},
        {"webhook-signature": "v1,x"},
        {"Transfer-Encoding": "chunked"},
        {"X-A": "1\r\nX-B: 2"},
        {"X A": "1"},
        {"X-A": "1", "x-a": "2"},
        {"X-A": "ü"},
    ],
)
def test_a_header_that_is_the_houses_own_or_none_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(HeaderNotAllowed):
        check_headers(headers)


async def test_a_change_from_an_old_etag_is_refused_and_changes_nothing(
    world: WebhookWorld,
) -> None:
    webhook = await world.endpoint("/a")
    steps, etag = Steps(world, webhook), endpoints.etag_of(webhook)
    changed = await steps.update(endpoints.EndpointChange(description="new", etag=etag))
    assert endpoints.etag_of(changed) != etag
    with pytest.raises(EtagMismatch):
        await steps.update(endpoints.EndpointChange(description="newer", etag=etag))
    async with steps.transaction() as tx:
        kept, _ = await webhooks.get_endpoint(tx, world.tenant_id, webhook.id)
    assert kept == changed


async def test_a_ping_goes_to_its_endpoint_alone(world: WebhookWorld) -> None:
    pinged = await world.endpoint("/a", "invoice.*")
    await world.endpoint("/b")
    async with world.databases.api.transaction(world.tenant_id) as tx:
        event_id = await endpoints.ping_endpoint(
            tx, world.tenant_id, pinged.id, world.cause, now=world.databases.clock.now()
        )
    [row] = await world.rows("SELECT envelope FROM billing_events WHERE id = $1", event_id)
    await world.fan_out([incoming(event_id, row["envelope"])])
    async with world.sender() as sender:
        assert await send_all(sender) == 1
    [body] = world.receiver.bodies("/a")
    assert body["type"] == "webhook.ping"
    await world.check_balance()


async def test_after_a_rotation_both_secrets_verify_until_the_earlier_ends(
    world: WebhookWorld,
) -> None:
    webhook = await world.endpoint("/a")
    steps, first = Steps(world, webhook), world.receiver.secrets["/a"]
    second = await steps.rotate()
    await world.deliverable()
    async with world.sender() as sender:
        await send_all(sender)
        _, headers, body = world.receiver.got[0]
        small = {name.lower(): value for name, value in headers.items()}
        for secret in (first, second):
            standardwebhooks.Webhook(secret).verify(body, small)
        await world.rows(
            "UPDATE webhook_secrets SET expires_at = $1 WHERE expires_at IS NOT NULL",
            world.databases.clock.now() - timedelta(seconds=1),
        )
        world.receiver.secrets["/a"] = second
        await world.deliverable()
        await send_all(sender)
    _, headers, body = world.receiver.got[1]
    small = {name.lower(): value for name, value in headers.items()}
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(first).verify(body, small)
    async with steps.transaction() as tx:
        left = await webhook_secrets.list_secrets(tx, *steps.ids, now=world.databases.clock.now())
    assert [row.expires_at for row in left] == [None]


async def test_an_endpoint_has_at_most_five_secrets(world: WebhookWorld) -> None:
    steps = Steps(world, await world.endpoint("/a"))
    for _ in range(4):
        await steps.rotate()
    with pytest.raises(webhook_secrets.TooManySecrets):
        await steps.rotate()


async def test_each_step_is_told_once_under_a_version_of_its_own(world: WebhookWorld) -> None:
    steps = Steps(world, await world.endpoint("/a"))
    await steps.update(endpoints.EndpointChange(description="x"))
    await steps.disable()
    await steps.enable()
    await steps.rotate()
    await steps.delete()
    rows = await world.rows(
        "SELECT envelope FROM billing_events WHERE subject LIKE 'webhook.%' ORDER BY id"
    )
    told = [event_pb2.Event.FromString(row["envelope"]) for row in rows]
    assert [(event.subject, event.resource_version) for event in told] == [
        ("webhook.endpoint.created", 1),
        ("webhook.endpoint.updated", 2),
        ("webhook.endpoint.disabled", 3),
        ("webhook.endpoint.enabled", 4),
        ("webhook.secret.rotated", 5),
        ("webhook.endpoint.deleted", 6),
    ]


async def _somebody_waits(world: WebhookWorld) -> None:
    # Other roles' sessions hide what they wait for, but not their locks.
    waiting = (
        "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
        " WHERE NOT l.granted AND a.datname = current_database()"
    )
    async with asyncio.timeout(10):
        while not await world.rows(waiting):  # noqa: ASYNC110 # the database tells it to nobody
            await asyncio.sleep(0)
