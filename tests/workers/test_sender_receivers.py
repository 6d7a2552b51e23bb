"""Webhook path, step 2: receivers that are slow, huge, silent or lying cost little and harm nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from tests.conftest import Databases
from tests.webhook_world import (
    FAST,
    LOOPBACK,
    Receiver,
    WebhookWorld,
    hang,
    ok,
    receiving,
    send_all,
    status,
    webhook_world,
)
from workers.webhooks.client import Answer, WebhookClient
from workers.webhooks.guard import Guard
from workers.webhooks.settings import SenderSettings

KEPT, READ = 16 * 1024, 64 * 1024


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def world(databases: Databases) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(databases) as world:
        yield world


async def trickle(request: web.Request) -> web.StreamResponse:
    """A body that never ends and never pauses for long."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b".")
        await asyncio.sleep(0.01)


class Flood:
    """A body of 200 MB; counts what could be written."""

    def __init__(self) -> None:
        self.written = 0
        self.ended = asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for _ in range(3200):
                await response.write(b"x" * READ)
                self.written += READ
        finally:
            self.ended.set()
        return response


async def test_a_body_that_trickles_ends_with_the_deadline(receiver: Receiver) -> None:
    receiver.answers["/"] = trickle
    answer = await _post(receiver, FAST)
    assert (answer.status, answer.error.split(":")[0]) == (200, "timeout")


async def test_a_receiver_that_never_answers_ends_with_the_deadline(receiver: Receiver) -> None:
    receiver.answers["/"] = hang
    answer = await _post(receiver, FAST)
    assert (answer.status, answer.error.split(":")[0]) == (None, "timeout")
    assert answer.address == "127.0.0.1"


async def test_a_huge_body_is_not_read(receiver: Receiver) -> None:
    flood = receiver.answers["/"] = Flood()
    answer = await _post(receiver, SenderSettings())
    assert (answer.status, answer.error) == (200, "")
    assert answer.head == b"x" * KEPT
    await flood.ended.wait()
    # What sockets and buffers on both sides hold; not the 200 MB.
    assert flood.written < 20_000_000


async def test_a_packed_body_is_not_unpacked(receiver: Receiver) -> None:
    bomb = gzip.compress(bytes(10_000_000))

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    receiver.answers["/"] = answer
    got = await _post(receiver, SenderSettings())
    assert (got.status, got.head) == (200, bomb[:KEPT])
    assert receiver.got[0][1]["Accept-Encoding"] == "identity"


async def test_redirects_are_not_followed_and_no_success(world: WebhookWorld) -> None:
    await world.endpoint("/hook", answer=status(307, Location=world.receiver.url("/other")))
    await world.deliverable()
    async with world.sender() as sender:
        await send_all(sender)
    assert [path for path, _, _ in world.receiver.got] == ["/hook"]
    [attempt] = await world.attempts()
    assert (attempt["outcome"], attempt["response_status"]) == ("refused", 307)


async def test_cookies_are_not_kept(receiver: Receiver) -> None:
    receiver.answers["/"] = status(200, **{"Set-Cookie": "a=b; Path=/"})
    async with _client(SenderSettings()) as client:
        for _ in range(2):
            await client.post(receiver.url("/"), {}, b"{}")
    assert [headers.get("Cookie") for _, headers, _ in receiver.got] == [None, None]


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", "disconnected"),
        (b"SSH-2.0-OpenSSH\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "disconnected"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "protocol"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "protocol"),
    ],
)
async def test_what_is_no_http_is_a_failure(sent: bytes, error: str) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, _client(FAST) as client:
        answer = await client.post(f"http://127.0.0.1:{port}/", {}, b"{}")
    assert answer.error.split(":")[0] == error


async def test_nobody_listening_is_a_failure() -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    async with _client(FAST) as client:
        answer = await client.post(f"http://127.0.0.1:{port}/", {}, b"{}")
    assert answer.error.startswith("connect")


async def test_a_name_without_addresses_is_a_failure() -> None:
    async with _client(FAST) as client:
        answer = await client.post("http://nothing.invalid/", {}, b"{}")
    assert answer.error.split(":")[0] in {"name", "timeout", "connect_timeout"}


async def test_an_error_with_odd_letters_is_stored(world: WebhookWorld) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500, body=b"\x00\xff\xfe", reason="no")

    await world.endpoint("/hook", answer=answer)
    await world.deliverable()
    async with world.sender() as sender:
        await send_all(sender)
    [attempt] = await world.attempts()
    assert attempt["response_head"] == b"\x00\xff\xfe"


async def test_endpoints_that_hang_with_any_backlog_keep_nobody_waiting(
    world: WebhookWorld,
) -> None:
    """Counted in claims: the healthy one's whole backlog goes while the others' first posts still hang."""
    released = asyncio.Event()

    async def hang_until_released(request: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response(status=503)

    for number in range(20):
        await world.endpoint(f"/hang{number}", answer=hang_until_released)
    await world.deliverable(100)
    async with world.sender() as sender:
        await sender.step()
        await world.endpoint("/healthy", answer=ok)
        ids = await world.deliverable(100)
        steps = 0
        while len(set(world.receiver.ids("/healthy"))) < len(ids):
            steps += 1
            if not await sender.step():
                # Its room comes back with the commit, long before any deadline.
                world.wake.clear()
                await world.wake.wait()
        hung = len([path for path, _, _ in world.receiver.got if path.startswith("/hang")])
        assert steps < 200
        # None of them got more than its cap while it did not answer.
        assert hung <= 20 * 2
        released.set()
    assert sorted(set(world.receiver.ids("/healthy"))) == sorted(ids)
    assert (await world.statuses())["delivered"] == 100
    await world.check_balance()


def _client(settings: SenderSettings) -> WebhookClient:
    return WebhookClient(settings, Guard(LOOPBACK), user_agent="tollway/test")


async def _post(receiver: Receiver, settings: SenderSettings) -> Answer:
    async with _client(settings) as client:
        return await client.post(receiver.url("/"), {}, b"{}")
