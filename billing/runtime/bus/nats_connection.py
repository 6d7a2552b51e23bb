"""Publish path, step 3: one TCP connection to nats-server, and questions with answers over it.

Of nats-py this uses what it does well: the handshake, TLS, authentication, pings. Its reconnecting
is switched off (it keeps stale buffers and forgets pull requests); `nats_link.py` opens a new
connection instead. This file is the only one that touches names which nats-py calls private.

Invariant: every question is answered or failed. When the connection ends, for whatever reason, all
that wait on it get BusUnavailable at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nats import errors
from nats.aio.client import Client

from billing.runtime.bus.base import BusMisconfigured, BusSettings, BusUnavailable
from billing.runtime.bus.nats_wire import Sink, WireParser, status_of

SHUT_MAX_S = 1.0
_NOT_PERMITTED = re.compile(r'Permissions Violation for Publish to "([^"]+)"', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """Where the servers are and who we are; from the URL (see `connect.py`)."""

    servers: tuple[str, ...]  # "host:port"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    credentials_file: str | None = None
    tls: ssl.SSLContext | None = None


class PublishDenied(Exception):
    """The server said that this connection may not publish to the subject."""


class Answer(NamedTuple):
    """A reply's header block and body."""

    block: bytes
    body: bytes


class Question:
    """One awaited reply: the inbox to put on the wire and the future behind it."""

    __slots__ = ("future", "inbox", "subjects")

    def __init__(self, inbox: str, subjects: Callable[[], Iterable[str]]) -> None:
        self.inbox = inbox
        self.subjects = subjects
        self.future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()


class NatsConnection(Client):
    """A connection that lives once: opened, used, gone."""

    def __init__(self, address: NatsAddress, settings: BusSettings, name: str) -> None:
        super().__init__()
        self._address = address
        self._bus_settings = settings
        self._name = name
        self._wire = WireParser(self, self._on_error_line)
        self._ps = self._wire
        self._questions: dict[bytes, Question] = {}
        self._inbox = self.new_inbox()
        self._end_waiters: set[asyncio.Future[None]] = set()
        self._asked = 0
        self._socket: Any = None
        self._last_error = ""
        self.ended = asyncio.Event()

    async def open(self) -> None:
        """Connect to the first server that answers.

        Raises:
            BusUnavailable: none did; the text has the last reason.
            BusMisconfigured: nats-server is too old for atomic batches.
        """
        settings, address = self._bus_settings, self._address
        scheme = "tls" if address.tls else "nats"
        try:
            async with asyncio.timeout(settings.connect_timeout_s * 2 * len(address.servers)):
                await self.connect(
                    servers=[f"{scheme}://{server}" for server in address.servers],
                    error_cb=self._remember_error,
                    name=self._name,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=settings.connect_timeout_s,  # type: ignore[arg-type]  # seconds; a float works
                    ping_interval=settings.ping_interval_s,  # type: ignore[arg-type]  # likewise
                    max_outstanding_pings=2,
                    pending_size=-1,
                    no_echo=True,  # of what we publish, we listen to hints alone, and have told those here
                    **self._identity(),
                )
        except (OSError, errors.Error, TimeoutError) as error:
            await self.shut()
            reason = self._last_error or str(error) or type(error).__name__
            raise BusUnavailable(f"cannot reach NATS at {address.servers}: {reason}") from error
        self._adopt()

    def _identity(self) -> dict[str, Any]:
        address = self._address
        identity: dict[str, Any] = {"user": address.user, "password": address.password}
        if address.user is not None and address.password is None:
            identity = {"token": address.user}
        if address.credentials_file is not None:
            identity["user_credentials"] = address.credentials_file
        if address.tls is not None:
            identity["tls"] = address.tls
        return identity

    def _connect_command(self) -> bytes:
        # nats-py stays in plain text when the server does not ask for TLS; a tls:// address means
        # it.
        if self._address.tls is not None and not self._server_info.get("tls_required"):
            raise errors.Error("the address says tls:// but the server offers no TLS")
        return super()._connect_command()

    def _adopt(self) -> None:
        """Take over what `connect` made: the socket to write to and the end of its read loop."""
        assert self._reading_task is not None
        self._reading_task.add_done_callback(lambda _: self._end())
        self._socket = self._transport._io_writer.transport  # type: ignore[union-attr]
        self.listen(f"{self._inbox}.*", self._on_answer)

    async def _remember_error(self, error: Exception) -> None:
        self._last_error = str(error) or type(error).__name__

    @property
    def usable(self) -> bool:
        """Whether the connection still stands."""
        return self._socket is not None and self.is_connected and not self.ended.is_set()

    @property
    def server_addresses(self) -> list[str]:
        """All servers of the cluster that this one told of."""
        return [uri.netloc.rpartition("@")[2] for uri in self.servers]

    # --- writing

    def send(self, data: bytes) -> None:
        """Put whole commands on the wire in one write.

        Raises:
            BusUnavailable: not connected, or the server has stopped reading.
        """
        if not self.usable:
            raise BusUnavailable(f"not connected to NATS: {self._last_error or 'connection ended'}")
        unsent = self._socket.get_write_buffer_size()
        if unsent > self._bus_settings.unsent_max_bytes:
            raise BusUnavailable(f"NATS has stopped reading; {unsent} bytes wait to be sent")
        try:
            self._socket.write(data)
        except (OSError, RuntimeError) as error:  # uvloop raises RuntimeError on a closed handle
            raise BusUnavailable(f"not connected to NATS: {error}") from error

    def listen(self, subject: str, sink: Sink) -> bytes:
        """Subscribe `sink`; returns the id to give to `unlisten`."""
        self._sid += 1
        sid = str(self._sid).encode()
        self._wire.sinks[sid] = sink
        self.send(b"SUB %s %s\r\n" % (subject.encode(), sid))
        return sid

    def unlisten(self, sid: bytes) -> None:
        """End a subscription; on a dead connection there is nothing to end."""
        self._wire.sinks.pop(sid, None)
        with contextlib.suppress(BusUnavailable):
            self.send(b"UNSUB %s\r\n" % sid)

    # --- questions and answers

    def question(self, subjects: Callable[[], Iterable[str]]) -> Question:
        """Prepare an inbox; `subjects` names what is published, should the server refuse it."""
        self._asked += 1
        question = Question(f"{self._inbox}.{self._asked}", subjects)
        self._questions[question.inbox.encode()] = question
        return question

    async def answer(self, question: Question, timeout_s: float) -> Answer:
        """Wait for the reply; one that is there is returned even with no time left.

        Raises:
            BusUnavailable: none within `timeout_s`, the connection ended, or nobody listens.
            PublishDenied
        """
        try:
            if question.future.done():
                return question.future.result()
            async with asyncio.timeout(timeout_s):
                return await question.future
        except TimeoutError as error:
            raise BusUnavailable(f"no answer from NATS within {timeout_s} s") from error
        finally:
            self.forget(question)

    async def wait_for_answers(self, questions: list[Question], timeout_s: float) -> None:
        """Wait until all are answered or the time is over; then ask each with `answer`."""
        if questions:
            await asyncio.wait([question.future for question in questions], timeout=timeout_s)

    def forget(self, question: Question) -> None:
        """Expect no answer any more."""
        self._questions.pop(question.inbox.encode(), None)
        question.future.cancel()

    @property
    def unanswered(self) -> int:
        """How many questions are open."""
        return len(self._questions)

    def _on_answer(self, fields: list[bytes], block: bytes, body: bytes) -> None:
        question = self._questions.get(fields[1])
        if question is None or question.future.done():
            return  # too late: it was given up
        if block and status_of(block) == 503:
            question.future.set_exception(NobodyListens("nobody answers on this subject"))
        else:
            question.future.set_result(Answer(block, body))

    def _on_error_line(self, text: str) -> None:
        self._last_error = text
        denied = _NOT_PERMITTED.search(text)
        if denied is None:
            return
        for question in list(self._questions.values()):
            if denied[1] in question.subjects() and not question.future.done():
                question.future.set_exception(PublishDenied(text))

    # --- the end

    def on_end(self, waiter: asyncio.Future[None]) -> None:
        """Wake `waiter` when the connection ends."""
        if self.ended.is_set() and not waiter.done():
            waiter.set_result(None)
        self._end_waiters.add(waiter)

    def off_end(self, waiter: asyncio.Future[None]) -> None:
        """Wake it no more."""
        self._end_waiters.discard(waiter)

    def _end(self) -> None:
        if self.ended.is_set():
            return
        self.ended.set()
        self._wire.sinks.clear()
        for waiter in self._end_waiters:
            if not waiter.done():
                waiter.set_result(None)
        for question in self._questions.values():
            if not question.future.done():
                question.future.set_exception(
                    BusUnavailable(f"lost NATS: {self._last_error or 'connection closed'}")
                )

    async def shut(self) -> None:
        """Close the socket whatever state the client is in."""
        opened = self._socket is not None
        self._end()
        if opened:
            with contextlib.suppress(OSError, RuntimeError, TimeoutError, errors.Error):
                async with asyncio.timeout(SHUT_MAX_S):
                    await self.close()
        # close() returns early on a connection that broke by itself, and waits for ever on one
        # whose TLS handshake failed.
        transport: Any = self._transport
        if transport:
            transport._io_writer.transport.abort()
            await asyncio.sleep(0)  # the transport's own last callback


class NobodyListens(BusUnavailable):
    """No stream takes this subject, or JetStream is off."""


def require_atomic_batches(version: str) -> None:
    """nats-server 2.12 was the first with atomic batches.

    Raises:
        BusMisconfigured
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < (2, 12):
        raise BusMisconfigured(f"nats-server {version} is too old: 2.12 or newer is needed")
