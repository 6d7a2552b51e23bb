"""`tollway webhooks listen`: a tenant's events, as an endpoint would get them, at a port of the developer's machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from click.testing import CliRunner

from billing.services.keys import Scope
from cli.client import CallFailed, Connection
from cli.listen import ListenOptions, listen, secret_for
from cli.main import tollway
from tests.conftest import Databases
from tests.server.rim import Rim, open_rim
from tests.server.test_watch_events import feed
from tests.webhook_world import Receiver, hang, receiving, status


@pytest.fixture
async def rim(databases: Databases) -> AsyncIterator[Rim]:
    async with open_rim(databases) as rim:
        yield rim


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def test_events_arrive_in_order_and_verified_and_each_is_told(
    rim: Rim, receiver: Receiver
) -> None:
    connection = Connection(f"127.0.0.1:{rim.server.port}", rim.acme.keys[Scope.READ])
    secret = secret_for(connection.key)
    assert secret == secret_for(connection.key) != secret_for("another key")
    receiver.secrets["/hook"] = secret.to_text()
    ids = await feed(rim, rim.acme, 3)
    await feed(rim, rim.other, 2)
    told: list[str] = []
    options = ListenOptions(receiver.url("/hook"), secret, from_beginning=True, count=3)
    await listen(connection, options, told.append)
    assert receiver.ids("/hook") == ids
    assert receiver.verified == 3
    assert [body["id"] for body in receiver.bodies("/hook")] == ids
    assert [line.split()[1:4] for line in told[1:]] == [["tenant.created", i, "204"] for i in ids]


async def test_a_receiver_that_fails_is_told_and_the_next_event_comes(
    rim: Rim, receiver: Receiver
) -> None:
    connection = Connection(f"127.0.0.1:{rim.server.port}", rim.acme.keys[Scope.READ])
    await feed(rim, rim.acme, 2)
    secret = secret_for(connection.key)
    receiver.answers["/hook"] = status(500)
    for url, outcome in ((receiver.url("/hook"), "500"), ("http://127.0.0.1:9/hook", "failed:")):
        told: list[str] = []
        options = ListenOptions(url, secret, from_beginning=True, count=2)
        await listen(connection, options, told.append)
        assert [line.split()[3] for line in told[1:]] == [outcome, outcome]


async def test_it_begins_now_and_can_be_stopped(rim: Rim, receiver: Receiver) -> None:
    connection = Connection(f"127.0.0.1:{rim.server.port}", rim.acme.keys[Scope.READ])
    await feed(rim, rim.acme, 1)
    receiver.answers["/hook"] = hang
    options = ListenOptions(receiver.url("/hook"), secret_for(connection.key))
    ready = asyncio.Event()
    listening = asyncio.create_task(listen(connection, options, lambda _: ready.set()))
    await ready.wait()
    new = await feed(rim, rim.acme, 1)
    await receiver.arrived("/hook")
    assert receiver.ids("/hook") == new
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening


async def test_a_wrong_address_is_said_at_once(receiver: Receiver) -> None:
    options = ListenOptions(receiver.url("/hook"), secret_for("key"))
    with pytest.raises(CallFailed, match="no server answers"):
        await listen(Connection("127.0.0.1:1", "key"), options, lambda _: None)


def test_what_cannot_be_posted_to_is_refused() -> None:
    given = ["webhooks", "listen", "--key", "k", "--forward", "localhost:3000"]
    result = CliRunner().invoke(tollway, given)
    assert result.exit_code == 2
    assert "http://localhost:3000/hook" in result.output
