"""Webhook path, step 2: one POST, with a bound on everything that a receiver decides.

Invariant: one deadline covers the whole exchange, body included; at most 64 KiB of an answer are read, as they come;
nothing is followed, unpacked or remembered; and whatever goes wrong is an answer of `post`, not an error.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from yarl import URL

from workers.webhooks.guard import Dial, Guard, current_dial
from workers.webhooks.resolver import PooledResolver
from workers.webhooks.settings import SenderSettings

# Below the 5 s after which common receivers close, so that a request seldom meets a connection that is just closing.
KEEPALIVE_S: Final = 4.0
NAMES_KEPT_S: Final = 10
# Bounds what the kernel hands over before the reader stops it; a few thousand exchanges may be open.
READ_BUFFER_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Without a status there was no answer; `error` is `<class>: <detail>` or empty.

    `ours` says that a fault of the house, not of the receiver, is the error.
    """

    status: int | None = None
    head: bytes = b""
    retry_after: str | None = None
    error: str = ""
    address: str = ""
    ours: bool = False


class _Response(aiohttp.ClientResponse):
    """Notes the address of the connection that carries it: a kept one was dialled by an earlier attempt."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        dial = current_dial.get()
        peer = connection.transport.get_extra_info("peername") if connection.transport else None
        if dial is not None and peer:
            dial.address = str(peer[0])
        return await super().start(connection)


class WebhookClient:
    """Posts to receivers; used as a context, so that its connections end with it."""

    def __init__(self, settings: SenderSettings, guard: Guard, *, user_agent: str) -> None:
        self._settings, self._guard, self._user_agent = settings, guard, user_agent
        self._resolver = PooledResolver()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Without limits of its own: the schedule's slots are the limit, and a queue here would mix endpoints.
        connector = aiohttp.TCPConnector(
            limit=0,
            limit_per_host=0,
            resolver=self._resolver,
            ttl_dns_cache=NAMES_KEPT_S,
            keepalive_timeout=KEEPALIVE_S,
            socket_factory=self._guard.open_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._settings.connect_timeout_s),
            headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity"},
            response_class=_Response,
            auto_decompress=False,
            trust_env=False,
            read_bufsize=READ_BUFFER_BYTES,
        )
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Posts `body` and reads the beginning of the answer."""
        assert self._session is not None, "the client is used as a context"
        dial, began = Dial(), time.monotonic()
        token = current_dial.set(dial)
        deadline_s = self._settings.total_timeout_s * (
            1 - self._settings.timeout_jitter * random.random()
        )
        status: int | None = None
        try:
            async with (
                asyncio.timeout(deadline_s),
                self._session.post(
                    # As the tenant wrote it: nothing is quoted again.
                    URL(url, encoded=True),
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                ) as response,
            ):
                status = response.status
                head = await self._read_head(response)
                retry_after = response.headers.get("Retry-After")
                return Answer(status, head, retry_after, "", dial.address)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # A status whose body never ended is no answer, but worth telling.
            ours = _is_local(error) or self._is_nameless(url, error, dial, began)
            reason = f"{_OURS}: {error}" if ours else _reason(error, dial)
            return Answer(status, error=reason, address=dial.address, ours=ours)
        finally:
            current_dial.reset(token)

    def _is_nameless(self, url: str, error: Exception, dial: Dial, began: float) -> bool:
        """Whether name servers failed the house: no answer for this name, and none for another since."""
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            unanswered = error.os_error.errno in _NO_ANSWER
        else:
            # Time ran out before there was an address to dial.
            timed_out = isinstance(error, aiohttp.ConnectionTimeoutError)
            unanswered = timed_out and not dial.address and not dial.denied
        host = URL(url, encoded=True).raw_host or ""
        return unanswered and not self._resolver.answers_others(host, began)

    async def _read_head(self, response: aiohttp.ClientResponse) -> bytes:
        kept, read = bytearray(), 0
        async for chunk in response.content.iter_any():
            kept += chunk[: max(0, self._settings.answer_kept_bytes_max - len(kept))]
            read += len(chunk)
            if read >= self._settings.answer_read_bytes_max:
                # The rest is not wanted, and neither is the connection that would carry it.
                response.close()
                break
        return bytes(kept)


def _is_local(error: Exception) -> bool:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return isinstance(cause, OSError) and cause.errno in _LOCAL


def _reason(error: Exception, dial: Dial) -> str:
    if dial.denied and not dial.address:
        return f"address_denied: {', '.join(dial.denied)} is not public"
    return f"{_error_class(error)}: {str(error) or type(error).__name__}"


# The class of an error that the house is to blame for.
_OURS: Final = "house"
# Name servers that did not answer; that there is no such name is an answer.
_NO_ANSWER: Final = frozenset({socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_SYSTEM})
# What this machine lacks: a network, ports, file descriptors, memory.
_LOCAL: Final = frozenset(
    {
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EADDRNOTAVAIL,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
    }
)
# The first that fits; the order is from the special to the general.
_CLASSES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (aiohttp.ConnectionTimeoutError, "connect_timeout"),
    (TimeoutError, "timeout"),
    (aiohttp.ClientConnectorDNSError, "name"),
    (aiohttp.ClientSSLError, "tls"),
    (aiohttp.ClientConnectorError, "connect"),
    (aiohttp.InvalidURL, "url"),
    (aiohttp.ClientResponseError, "protocol"),
    (aiohttp.ClientPayloadError, "disconnected"),
    (aiohttp.ServerDisconnectedError, "disconnected"),
    (aiohttp.ClientOSError, "disconnected"),
    (OSError, "connect"),
)


def _error_class(error: Exception) -> str:
    return next((name for kind, name in _CLASSES if isinstance(error, kind)), "url")
