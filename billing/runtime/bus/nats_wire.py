"""Publish path, step 3: bytes to and from nats-server.

Building and parsing headers through the client costs 12 us a message, most of a publisher's time;
here a message is one f-string, and an arriving one stays unparsed until somebody asks.

Invariant: nothing that a message carries can break out of its line (no CR, LF or space in a subject
token, attributes percent-encoded as CloudEvents says), so one message is always one command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from billing.runtime.bus.base import ATTRIBUTES, BusMessage, MessageRefused, RefusalReason

PREFIX = "tollway.events"
SUBJECT_MAX = 512  # nats-server's control line ends at 4096 bytes; reply inbox and sizes need room
CONTROL_LINE_MAX = 8192
_SUBJECT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_BUS_ID = re.compile(r"[!#$&-~]{1,160}")
# Printable ASCII that the CloudEvents HTTP and NATS bindings leave as it is (no space, quote,
# percent).
_SAFE = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')

# A sink takes the split control line, the header block and the body of one arriving message.
Sink = Callable[[list[bytes], bytes, bytes], None]


@lru_cache(maxsize=8192)
def bus_subject(partition: int, tenant: str, subject: str) -> str:
    """`tollway.events.<partition>.<tenant>.<subject>`.

    Raises:
        MessageRefused: MALFORMED when a token would not survive as a NATS subject.
    """
    full = f"{PREFIX}.{partition}.{tenant}.{subject}"
    if len(full) > SUBJECT_MAX or "." in tenant or not _SUBJECT.fullmatch(f"{tenant}.{subject}"):
        raise MessageRefused(RefusalReason.MALFORMED, f"{full[:200]!r} is no bus subject")
    return full


def attribute_block(message: BusMessage) -> str:
    """The message's own header lines: its id for the duplicate window and its CloudEvents.

    Raises:
        MessageRefused: MALFORMED for an unknown attribute or an id that does not fit on a line.
    """
    bus_id = message.bus_id
    if not _BUS_ID.fullmatch(bus_id):
        raise MessageRefused(RefusalReason.MALFORMED, f"{bus_id[:200]!r} is no bus id")
    values: Iterable[str] = message.headers.values()
    together = "".join(values)
    # One look at all values at once; nearly always nothing needs encoding.
    plain = together.isascii() and together.isprintable()
    if not plain or " " in together or '"' in together or "%" in together:
        values = [quote(value, safe=_SAFE) for value in values]
    return _lines(tuple(message.headers)) % (bus_id, *values)


@lru_cache(maxsize=64)
def _lines(names: tuple[str, ...]) -> str:
    """The header lines of messages that have these attributes, with a place for each value."""
    unknown = sorted(set(names).difference(ATTRIBUTES))
    if unknown:
        raise MessageRefused(RefusalReason.MALFORMED, f"unknown attributes {unknown}")
    return "Nats-Msg-Id: %s\r\n" + "".join([f"ce-{name}: %s\r\n" for name in names])


def hpub(subject: str, reply: str, block: str, body: bytes) -> tuple[bytes, bytes, bytes]:
    """One HPUB command in three parts, to be joined with its neighbours in one write."""
    size = len(block) + 12  # the version line before, the empty line behind; all of it is ASCII
    head = f"HPUB {subject} {reply} {size} {size + len(body)}\r\nNATS/1.0\r\n{block}\r\n"
    return head.encode("ascii"), body, b"\r\n"


def pub(subject: str, reply: str, body: bytes) -> bytes:
    """One PUB command."""
    return b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), reply.encode(), len(body), body)


def header_value(block: bytes, name: bytes) -> str:
    """One header of an arriving block, or an empty string."""
    start = block.find(b"\r\n%s:" % name)
    if start < 0:
        return ""
    start += len(name) + 3
    return block[start : block.find(b"\r\n", start)].strip().decode("utf-8", "replace")


def status_of(block: bytes) -> int:
    """The status of a server's message (100 heartbeat, 404, 408, 409, 503); 0 for plain data."""
    code = block[9:12]  # "NATS/1.0 408 Request Timeout"
    return int(code) if block[8:9] == b" " and code.isdigit() else 0


class NatsReceived:
    """A message from a stream; subject and headers are parsed when asked for."""

    __slots__ = ("_block", "_subject", "body", "sequence")

    def __init__(self, sequence: int, subject: bytes, block: bytes, body: bytes) -> None:
        self.sequence = sequence
        self._subject = subject
        self._block = block
        self.body = body

    @property
    def bus_id(self) -> str:
        """The id given at publishing."""
        return header_value(self._block, b"Nats-Msg-Id")

    @property
    def tenant(self) -> str:
        """The tenant token of the bus subject."""
        return self._subject.split(b".", 4)[3].decode()

    @property
    def subject(self) -> str:
        """What follows the tenant in the bus subject."""
        return self._subject.split(b".", 4)[4].decode()

    @property
    def headers(self) -> Mapping[str, str]:
        """CloudEvents attributes without their prefix."""
        lines = self._block.decode("utf-8", "replace").split("\r\n")
        pairs = [line[3:].split(":", 1) for line in lines if line.startswith("ce-")]
        return {pair[0]: unquote(pair[1].strip()) for pair in pairs if len(pair) == 2}

    def __repr__(self) -> str:
        return f"<{self.sequence} {self._subject.decode()} {self.bus_id}>"


class WireParser(Parser):
    """The client's parser with a short way for messages: split the line, slice, call the sink.

    Everything that is no message (INFO, PING, PONG, -ERR) goes to the client's own parser.
    """

    def __init__(self, client: Client, on_error: Callable[[str], None]) -> None:
        super().__init__(client)
        self.sinks: dict[bytes, Sink] = {}
        self._on_error = on_error
        self._tail = bytearray()
        self._needed = 0

    async def parse(self, data: bytes = b"") -> Any:
        """Take what the socket gave; keep an unfinished message for the next time.

        Raises:
            ProtocolError: a line that no server sends; the client closes the connection.
        """
        if self._tail:
            self._tail += data
            if len(self._tail) < self._needed:
                return
            data = bytes(self._tail)
        position = 0
        while (end := data.find(b"\r\n", position)) >= 0:
            kind = data[position]
            if kind in b"HM":
                stop = self._message(data, position, end)
                if stop < 0:
                    break
                position = stop
            else:
                await self._control(data[position : end + 2])
                position = end + 2
        else:
            self._needed = 0
            if len(data) - position > CONTROL_LINE_MAX:
                raise ProtocolError
        self._tail = bytearray(data[position:])

    def _message(self, data: bytes, position: int, end: int) -> int:
        """Hand over the message that begins at `position`; where the next begins, or -1."""
        fields = data[position:end].split()
        start = end + 2
        try:
            stop = start + int(fields[-1])
            body_at = start + int(fields[-2]) if fields[0] == b"HMSG" else start
            sid = fields[2]
        except (ValueError, IndexError) as error:
            raise ProtocolError from error
        if stop + 2 > len(data):
            self._needed = stop + 2 - position
            return -1
        sink = self.sinks.get(sid)
        if sink is not None:  # else: a late message of a reader that has gone
            sink(fields, data[start:body_at], data[body_at:stop])
        return stop + 2

    async def _control(self, line: bytes) -> None:
        if line.startswith(b"-ERR"):
            self._on_error(line[4:].decode("utf-8", "replace").strip(" '\r\n"))
        await super().parse(line)
