"""The door: `tollway webhooks listen`: a tenant's events, signed as webhooks are, posted to a port of this machine.

Invariant: what is posted is byte for byte what an endpoint would get, each event once and in order per resource; after
a lost connection it goes on from the cursor. Nothing of the tenant's is changed: there is no endpoint.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import grpc
import grpc.aio
from tollway.event.v1 import event_pb2
from tollway.event.v1 import event_service_pb2 as pb
from tollway.event.v1.event_service_pb2_grpc import EventServiceStub

from billing.domain.signature import Secret, headers
from cli.client import Connection, channel_to
from workers.webhooks.body import BodyUnknown, body_of

TIMEOUT_S: Final = 20.0
AGAIN_S: Final = 1.0
_LABEL: Final = b"tollway webhooks listen"


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """Where to post what. No subjects means all; `count` ends it after so many events, 0 never."""

    forward: str
    secret: Secret
    subjects: Sequence[str] = ()
    thin: bool = False
    from_beginning: bool = False
    count: int = 0


def secret_for(key: str) -> Secret:
    """The secret of whoever listens with this API key: the same every time, and of no endpoint."""
    return Secret(hmac.digest(key.encode(), _LABEL, hashlib.sha256))


def is_forwardable(url: str) -> bool:
    """Whether `url` can be posted to."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


async def listen(
    connection: Connection, options: ListenOptions, tell: Callable[[str], None]
) -> None:
    """Posts events until the count is reached or it is cancelled; `tell` gets a line per event. Raises CallFailed."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    done = 0
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        async for event in _events(connection, options, tell):
            tell(await _forward(session, event, options))
            done += 1
            if done == options.count:
                return


async def _events(
    connection: Connection, options: ListenOptions, tell: Callable[[str], None]
) -> AsyncIterator[event_pb2.Event]:
    request = pb.WatchEventsRequest(
        subjects=options.subjects, from_beginning=options.from_beginning
    )
    async with channel_to(connection) as channel:
        stub = EventServiceStub(channel)
        while True:
            try:
                async for answer in stub.WatchEvents(request, metadata=connection.metadata):
                    if not request.cursor:
                        tell("listening")
                    if answer.HasField("event"):
                        yield answer.event
                    # Behind what has been posted; a lost connection goes on here.
                    request.cursor = answer.cursor
            except grpc.aio.AioRpcError as error:
                # The first connection must hold: a wrong address should say so, and not be waited for.
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not request.cursor:
                    raise
                tell("the server is away; it is called again")
            await asyncio.sleep(AGAIN_S)


async def _forward(
    session: aiohttp.ClientSession, event: event_pb2.Event, options: ListenOptions
) -> str:
    began, now = time.monotonic(), datetime.now(UTC)
    try:
        body = body_of(event.SerializeToString(), thin=options.thin)
        signed = headers(event.id, now, body, [options.secret])
        posted = {**signed, "Content-Type": "application/json"}
        async with session.post(
            options.forward, data=body, headers=posted, allow_redirects=False
        ) as response:
            await response.content.read(1024)
            outcome = str(response.status)
    except BodyUnknown as error:
        outcome = f"not sent: {error}"
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        outcome = f"failed: {str(error) or type(error).__name__}"
    took_ms = int((time.monotonic() - began) * 1000)
    return f"{now:%H:%M:%S}  {event.subject}  {event.id}  {outcome}  {took_ms} ms"
