"""What became of deliveries, resends, the books and explanations, as a client meets them: real calls, a real sender."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import grpc
import pytest
from click.testing import CliRunner
from tollway.webhook.v1 import delivery_service_pb2 as pb

from billing.domain.ids import Prefix, encode
from billing.runtime.ids import new_id
from billing.services import keys
from billing.services.webhook_history import message_id
from cli.main import tollway
from tests.conftest import Databases
from tests.server.rim import Rim, open_rim
from tests.webhook_world import WebhookWorld, send_all, status, webhook_world
from workers.webhooks import body

SERVICE = "/tollway.webhook.v1.WebhookDeliveryService"


@dataclass(frozen=True, slots=True)
class Client:
    world: WebhookWorld
    rim: Rim
    key: str

    async def ask(self, method: str, **fields: Any) -> Any:
        request = getattr(pb, f"{method}Request")(**fields)
        return await self.rim.call(f"{SERVICE}/{method}", request, self.key)

    async def refused(self, method: str, **fields: Any) -> str:
        request = getattr(pb, f"{method}Request")(**fields)
        return (await self.rim.refused(f"{SERVICE}/{method}", request, self.key)).reason

    async def run(self, *words: str) -> str:
        port = self.rim.server.port
        options = ["--address", f"127.0.0.1:{port}", "--key", self.key]
        args = ["webhooks", words[0], *options, *words[1:]]
        result = await asyncio.to_thread(CliRunner().invoke, tollway, args)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output


@pytest.fixture
async def client(databases: Databases) -> AsyncIterator[Client]:
    async with webhook_world(databases) as world, open_rim(databases) as rim:
        draft = keys.NewKey("test", (keys.Scope.ADMIN,))
        async with databases.worker.transaction() as tx:
            _, key = await keys.create_key(
                tx, world.tenant_id, draft, world.cause, now=databases.clock.now()
            )
        yield Client(world, rim, key)


def endpoint_id(webhook: Any) -> str:
    return encode(Prefix.WEBHOOK_ENDPOINT, webhook.id)


async def test_deliveries_are_listed_in_pages_by_every_filter(client: Client) -> None:
    world = client.world
    one, two = await world.endpoint("/a"), await world.endpoint("/b", "customer.*")
    events = await world.deliverable(5)
    whole = (await client.ask("ListDeliveries")).deliveries
    assert len(whole) == 10
    assert [row.event_id for row in whole] == sorted((*events, *events), reverse=True)
    paged: list[pb.Delivery] = []
    token = ""
    while True:
        page = await client.ask("ListDeliveries", page_size=3, page_token=token)
        paged += page.deliveries
        token = page.next_page_token
        if not token:
            break
    assert paged == list(whole)
    found = await client.ask("ListDeliveries", endpoint_id=endpoint_id(two), event_id=events[2])
    assert [(row.endpoint_id, row.event_id) for row in found.deliveries] == [
        (endpoint_id(two), events[2])
    ]
    for subject, count in (("customer.created", 10), ("customer.*", 10), ("invoice.*", 0)):
        found = await client.ask("ListDeliveries", subject=subject)
        assert len(found.deliveries) == count
    async with world.sender() as sender:
        await send_all(sender)
    assert not (await client.ask("ListDeliveries", status=pb.DELIVERY_STATUS_PENDING)).deliveries
    found = await client.ask("ListDeliveries", status=pb.DELIVERY_STATUS_DELIVERED)
    assert len(found.deliveries) == 10
    output = await client.run("deliveries", "--endpoint", endpoint_id(one))
    assert all(event in output for event in events)


async def test_an_attempt_tells_what_was_dialled_and_answered(client: Client) -> None:
    webhook = await client.world.endpoint("/hook", answer=status(503))
    [event] = await client.world.deliverable()
    async with client.world.sender() as sender:
        await send_all(sender)
    got = await client.ask("GetDelivery", endpoint_id=endpoint_id(webhook), event_id=event)
    assert got.delivery.status == pb.DELIVERY_STATUS_PENDING
    assert got.delivery.HasField("next_attempt_time")
    [attempt] = got.attempts
    assert (attempt.number, attempt.outcome) == (1, pb.ATTEMPT_OUTCOME_REFUSED)
    assert (attempt.response_status, attempt.response_head) == (503, "status 503")
    assert (attempt.error_class, attempt.address) == ("status", "127.0.0.1")
    assert "503" in await client.run("attempts", endpoint_id(webhook), event)


async def test_what_was_given_up_stands_in_the_dead_letters(client: Client) -> None:
    world = client.world
    webhook = await world.endpoint("/hook", answer=status(500))
    [event] = await world.deliverable()
    await world.rows("UPDATE webhook_deliveries SET attempts = 9")
    async with world.sender() as sender:
        await send_all(sender)
    [letter] = (await client.ask("ListDeadLetters", endpoint_id=endpoint_id(webhook))).dead_letters
    assert (letter.event_id, letter.attempts, letter.subject) == (event, 10, "customer.created")
    assert letter.last_error == "status: 500"
    assert event in await client.run("dlq")
    told = await client.ask("ExplainDelivery", endpoint_id=endpoint_id(webhook), event_id=event)
    assert told.verdict == pb.DELIVERY_VERDICT_DEAD


async def test_a_resend_has_its_own_id_counts_as_matched_and_is_audited(client: Client) -> None:
    world = client.world
    webhook = await world.endpoint("/hook")
    [event] = await world.deliverable()
    asked = {"endpoint_id": endpoint_id(webhook), "event_id": event, "note": "lost"}
    async with world.sender() as sender:
        await send_all(sender)
        first = await client.ask("ResendDelivery", request_id="once", **asked)
        assert await client.ask("ResendDelivery", request_id="once", **asked) == first
        await send_all(sender)
    assert first.delivery.message_id == f"{event}_1"
    assert world.receiver.ids("/hook") == [event, f"{event}_1"]
    [entry] = await world.rows("SELECT * FROM audit_log WHERE method LIKE '%ResendDelivery'")
    assert entry["resource"] == f"{endpoint_id(webhook)}/{event}_1"
    assert (entry["note"], entry["request_id"]) == ("lost", "once")
    [books] = (await client.ask("GetBalance")).endpoints
    assert (books.matched, books.resent, books.delivered, books.balanced) == (2, 1, 2, True)
    both = await asyncio.gather(*(client.ask("ResendDelivery", **asked) for _ in range(2)))
    assert sorted(answer.delivery.resend for answer in both) == [2, 3]
    assert "evt_" in await client.run("resend", endpoint_id(webhook), event)
    await world.check_balance()


async def test_a_resend_to_a_disabled_endpoint_is_parked_and_needs_a_delivery(
    client: Client,
) -> None:
    world = client.world
    webhook = await world.endpoint("/hook")
    [event] = await world.deliverable()
    unknown = encode(Prefix.EVENT, new_id(world.databases.clock.now()))
    asked = {"endpoint_id": endpoint_id(webhook)}
    assert await client.refused("ResendDelivery", event_id=unknown, **asked) == "DELIVERY_NOT_FOUND"
    await world.rows("UPDATE webhooks SET status = 'disabled'")
    made = await client.ask("ResendDelivery", event_id=event, **asked)
    assert made.delivery.status == pb.DELIVERY_STATUS_PARKED
    await world.rows("UPDATE webhook_deliveries SET nonce = 1000 WHERE nonce = 1")
    assert await client.refused("ResendDelivery", event_id=event, **asked) == "RESEND_LIMIT_REACHED"


async def test_the_books_are_equal_at_every_moment_while_all_of_it_runs(client: Client) -> None:
    world = client.world
    good = await world.endpoint("/good")
    await world.endpoint("/bad", answer=status(500))
    await world.endpoint("/other", "invoice.*")
    done, asked, moving = asyncio.Event(), 0, 0

    async def ask() -> None:
        nonlocal asked, moving
        while not done.is_set():
            books = await client.ask("GetBalance")
            assert all(row.balanced for row in books.endpoints), books
            assert books.matched == sum(row.matched for row in books.endpoints)
            # Of three endpoints two want each event.
            resent = sum(row.resent for row in books.endpoints)
            assert books.matched - resent == 2 * books.filtered
            asked += 1
            moving += any(0 < row.delivered < row.matched for row in books.endpoints)

    async def fan_out() -> None:
        for _ in range(15):
            [event, *_] = await world.deliverable(20)
            await client.ask("ResendDelivery", endpoint_id=endpoint_id(good), event_id=event)

    async with world.sender() as sender:

        async def send() -> None:
            while not done.is_set():
                await sender.step()
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            group.create_task(ask())
            group.create_task(send())
            await fan_out()
            done.set()
        await send_all(sender)
    assert asked > 5
    assert moving
    books = await client.ask("GetBalance", endpoint_id=endpoint_id(good))
    [row] = books.endpoints
    assert (row.matched, row.delivered, row.resent) == (315, 315, 15)
    assert "=" in await client.run("balance")


async def test_every_fate_of_an_event_is_explained(client: Client) -> None:
    world = client.world
    [early] = await world.deliverable()
    webhook = await world.endpoint("/hook", "customer.*", answer=status(500))
    other = await world.endpoint("/other", "invoice.*", "usage.rated")
    [event] = await world.deliverable()

    async def verdict(webhook: Any = webhook, event: str = event) -> Any:
        return await client.ask("ExplainDelivery", endpoint_id=endpoint_id(webhook), event_id=event)

    filtered = await verdict(other)
    assert filtered.verdict == pb.DELIVERY_VERDICT_FILTERED
    assert list(filtered.endpoint_subjects) == ["invoice.*", "usage.rated"]
    assert (await verdict(event=early)).verdict == pb.DELIVERY_VERDICT_NOT_YET
    due = await verdict()
    assert (due.verdict, due.ahead) == (pb.DELIVERY_VERDICT_THROTTLED, 0)
    assert list(due.matching_subjects) == ["customer.*"]
    await world.rows("UPDATE webhook_deliveries SET attempts = 1")
    assert (await verdict()).verdict == pb.DELIVERY_VERDICT_IN_FLIGHT
    await world.rows("UPDATE webhook_deliveries SET attempts = 0")
    async with world.sender() as sender:
        await send_all(sender)
    later = await verdict()
    assert later.verdict == pb.DELIVERY_VERDICT_SCHEDULED
    assert later.next_attempt_time == later.delivery.next_attempt_time
    for state, expected in (
        ("parked", pb.DELIVERY_VERDICT_PARKED),
        ("canceled", pb.DELIVERY_VERDICT_CANCELED),
        ("delivered", pb.DELIVERY_VERDICT_DELIVERED),
    ):
        await world.rows("UPDATE webhook_deliveries SET status = $1", state)
        assert (await verdict()).verdict == expected
    assert "filtered: " in await client.run("explain", endpoint_id(other), event)


async def test_another_tenants_deliveries_are_not_found(client: Client) -> None:
    webhook = await client.world.endpoint("/hook")
    [event] = await client.world.deliverable()
    theirs = client.rim.other.keys[keys.Scope.ADMIN]
    named = {"endpoint_id": endpoint_id(webhook), "event_id": event}
    for method, reason in (
        ("GetDelivery", "DELIVERY_NOT_FOUND"),
        ("ResendDelivery", "ENDPOINT_NOT_FOUND"),
        ("ExplainDelivery", "ENDPOINT_NOT_FOUND"),
        ("ListDeliveries", "ENDPOINT_NOT_FOUND"),
    ):
        request = getattr(pb, f"{method}Request")(**named)
        refused = await client.rim.refused(f"{SERVICE}/{method}", request, theirs)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, reason)
    answer = await client.rim.call(f"{SERVICE}/ListDeliveries", pb.ListDeliveriesRequest(), theirs)
    assert not answer.deliveries


def test_the_id_of_a_message_is_the_senders() -> None:
    event_id = UUID("0192f0c1-7e2b-7a3c-8d4e-5f60718293a4")
    for nonce in (0, 1, 1000):
        assert message_id(event_id, nonce) == body.message_id(event_id, nonce)
