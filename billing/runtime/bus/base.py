"""Publish path, step 3, and the router's source: what every bus must do, said once.

A bus carries committed events from the dispatcher (`Publisher`) to the router (`Subscriber`). It
is a transport, never a store of record: the log in PostgreSQL is, so whatever the bus loses is
published again. NATS JetStream (`nats.py`), Kafka (`kafka.py`) and `noop.py` implement these
protocols, and one conformance suite runs against each real one.

Invariant: an error says whose fault it is. `BusUnavailable` is never the message's fault (keep
everything, back off, count no attempt); `MessageRefused` always is (count an attempt).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

BATCH_MAX_MESSAGES = 1000  # nats-server refuses a larger atomic batch (error 10199)
BATCH_MAX_BYTES = 8 * 1024 * 1024  # bodies of one batch; bounds what one publish holds in memory

# CloudEvents 1.0 attributes, then our two extensions; in this order on the wire.
ATTRIBUTES = (
    "specversion",
    "id",
    "type",
    "source",
    "subject",
    "time",
    "datacontenttype",
    "replayid",
    "replaytarget",
)


class BusError(Exception):
    """Root of everything that a bus raises on purpose."""


class BusUnavailable(BusError):
    """The bus is down, full, or did not answer. Nothing is known to be lost; try again later.

    A publish that ends so may have happened: the same bus id published again is dropped by the
    duplicate window, or by the inbox.
    """


class StreamMissing(BusUnavailable):
    """Nothing takes the partition's messages: no stream, or no leader for it yet.

    An outage too; `ensure_streams` makes the stream when it is really missing.
    """


class BusMisconfigured(BusError):
    """The bus cannot be used as it is set up (address, rights, version); a person must act."""


class BatchRefused(BusError):
    """An atomic batch was refused for a message's sake; none of it was stored. Publish singly."""


class RefusalReason(StrEnum):
    """Why a single message can never be accepted as it is."""

    TOO_LARGE = "TOO_LARGE"
    MALFORMED = "MALFORMED"
    NOT_PERMITTED = "NOT_PERMITTED"


class MessageRefused(BusError):
    """This message is at fault and would be refused again: counts an attempt."""

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class ReaderLost(BusError):
    """A reader must be made anew from the stored position."""


class StreamChanged(ReaderLost):
    """The stream is another one than stored, or ends below the position: reset the position."""


class SequenceGap(ReaderLost):
    """Deliveries were lost on the way (not in the stream): read again from the position."""


class BusMessage(NamedTuple):
    """One event on its way out.

    `bus_id` is `event_id` or `event_id:replay_id` (or `event_id:heal_n`): what the duplicate window
    compares. `headers` are CloudEvents attributes without prefix, see `ATTRIBUTES`. `key` orders:
    messages of one key and partition arrive in the order of their publishing.
    """

    partition: int
    tenant: str
    subject: str
    key: str
    bus_id: str
    headers: Mapping[str, str]
    body: bytes


class Received(Protocol):
    """One message on its way in. Everything but `sequence` and `body` is parsed when asked for."""

    @property
    def sequence(self) -> int:
        """Position in the partition's stream, ascending, from 1."""

    @property
    def body(self) -> bytes:
        """The envelope, binary protobuf."""

    @property
    def bus_id(self) -> str:
        """The id given at publishing; empty for a foreign message."""

    @property
    def tenant(self) -> str:
        """The tenant's TypeID string."""

    @property
    def subject(self) -> str:
        """The event's subject, e.g. usage.reported."""

    @property
    def headers(self) -> Mapping[str, str]:
        """CloudEvents attributes by name without prefix."""


@dataclass(frozen=True, slots=True)
class PublishAck:
    """The bus has the message; `sequence` is where (for a duplicate: where its first copy is)."""

    duplicate: bool
    sequence: int


# What became of one of several plainly published messages.
Outcome = PublishAck | MessageRefused | BusUnavailable


@dataclass(frozen=True, slots=True)
class StreamState:
    """A partition's stream as the bus sees it now.

    `identity` changes when the stream is deleted and made again. An empty stream has `first_seq ==
    last_seq + 1`, so `first_seq - 1` is always the position below which nothing is left.
    """

    identity: str
    first_seq: int
    last_seq: int
    stored_bytes: int = 0
    max_bytes: int = 0


@dataclass(frozen=True, slots=True)
class BusSettings:
    """Limits and waits of a bus. Bytes and seconds as the names say."""

    replicas: int = 1  # 3 in production
    stream_max_bytes: int = 256 * 1024 * 1024  # per partition; full is an outage, never a loss
    message_max_bytes: int = 288 * 1024  # an envelope of 256 KiB, its headers, and room
    duplicate_window_s: float = 120.0
    ack_timeout_s: float = 5.0
    request_timeout_s: float = 5.0
    connect_timeout_s: float = 2.0
    reconnect_first_s: float = 0.05
    reconnect_max_s: float = 2.0
    ping_interval_s: float = 5.0
    unsent_max_bytes: int = 64 * 1024 * 1024  # a stalled connection refuses more than this
    drain_timeout_s: float = 10.0
    pull_batch: int = 500  # messages of one pull request
    pull_max_bytes: int = 2 * 1024 * 1024  # bytes of one pull request
    pull_ahead: int = 2000  # messages asked for or waiting in memory, per reader
    buffer_max_bytes: int = 8 * 1024 * 1024  # no new pull request above this, per reader
    pull_expires_s: float = 30.0
    heartbeat_s: float = 2.0  # a silent reader is lost after two and a half of these
    reader_linger_s: float = 30.0  # the broker forgets an abandoned reader after this
    monitor_url: str = ""  # http://host:8222 of nats-server, for durability_warnings

    def __post_init__(self) -> None:
        """Refuse combinations that could never work.

        Raises:
            ValueError: a pull could not hold two messages, or heartbeats outlast the pull.
        """
        if self.pull_max_bytes < 2 * self.message_max_bytes:
            raise ValueError("pull_max_bytes must hold at least two messages of message_max_bytes")
        if self.pull_expires_s < 2 * self.heartbeat_s:
            raise ValueError("pull_expires_s must be at least twice heartbeat_s")
        if not 1 <= self.pull_batch <= self.pull_ahead:
            raise ValueError("pull_batch must be from 1 to pull_ahead")


def refuse_oversized(messages: Sequence[BusMessage]) -> None:
    """Hold a batch to its two limits.

    Raises:
        BatchRefused: more messages or more bytes of bodies than one batch may hold.
    """
    if len(messages) > BATCH_MAX_MESSAGES or sum([len(m.body) for m in messages]) > BATCH_MAX_BYTES:
        raise BatchRefused(f"more than {BATCH_MAX_MESSAGES} messages or {BATCH_MAX_BYTES} bytes")


def require_identity(state: StreamState, identity: str | None) -> None:
    """Hold a stream to the identity that the caller stored; None accepts any.

    Raises:
        StreamChanged
    """
    if identity is not None and state.identity != identity:
        raise StreamChanged(f"the stream is {state.identity}, not {identity}")


def require_position(state: StreamState, after: int) -> None:
    """Hold a stream to reach the caller's position: it lost acknowledged messages otherwise.

    Raises:
        StreamChanged
    """
    if state.last_seq < after:
        raise StreamChanged(f"the stream ends at {state.last_seq}, below the position {after}")


class Publisher(Protocol):
    """The dispatcher's side."""

    @property
    def max_message_bytes(self) -> int:
        """Headers and body of the largest message that this bus takes now."""

    async def publish_batch(self, partition: int, messages: Sequence[BusMessage]) -> PublishAck:
        """Publish all or none into `partition`, at most `BATCH_MAX_MESSAGES` and `BATCH_MAX_BYTES`.

        Returns the acknowledgement of the last message: its sequence is the stream's end.

        Raises:
            BatchRefused: a message's fault (an id seen before, too large, …): publish singly.
            BusUnavailable: no acknowledgement; it may have happened.
        """

    async def publish_one(self, message: BusMessage) -> PublishAck:
        """Publish one message.

        Raises:
            MessageRefused: this message can never be taken as it is.
            BusUnavailable: no acknowledgement; it may have happened.
        """

    async def publish_singly(self, messages: Sequence[BusMessage]) -> list[Outcome]:
        """Publish messages of distinct keys at once, each for itself; one outcome per message."""


class Reader(Protocol):
    """A partition's messages from a stored position on, without acknowledgements."""

    @property
    def state(self) -> StreamState:
        """The stream as it was when the reader was made."""

    async def next_batch(self, max_messages: int, wait_s: float) -> list[Received]:
        """The next messages, in order; an empty list when `wait_s` passed without one.

        Sequences may jump where messages were trimmed. What was received before a fault is handed
        out first, then the fault is raised.

        Raises:
            ReaderLost: make the reader anew (StreamChanged, SequenceGap).
            BusUnavailable: the connection is gone.
        """


class Subscriber(Protocol):
    """The router's and the sweeper's side."""

    async def stream_state(self, partition: int) -> StreamState:
        """Identity and ends of the stream now.

        Raises:
            StreamMissing, BusUnavailable
        """

    def reader(
        self, partition: int, after: int, identity: str | None = None
    ) -> AbstractAsyncContextManager[Reader]:
        """Read what comes behind sequence `after` (0: from the first that is left).

        Raises (when entered):
            StreamChanged: not the stream `identity`, or it ends below `after`.
            BusUnavailable
        """

    async def trim(self, partition: int, up_to: int, identity: str | None = None) -> None:
        """Remove every message up to and including `up_to`; the caller knows all are routed.

        Raises:
            StreamChanged: not the stream `identity`: its messages are not the routed ones.
            BusUnavailable
        """

    async def last_before(self, partition: int, at: datetime) -> int:
        """The last sequence that was stored before `at` (0: none); for trimming by age."""


class Bus(Publisher, Subscriber, Protocol):
    """Both sides and the connection's life."""

    @property
    def connected(self) -> bool:
        """For the gauge: whether the bus can be reached now."""

    @property
    def heals(self) -> bool:
        """Whether what is published comes back to the router (not on Noop: no healing there)."""

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """Call `callback(connected)` at each change from now on."""

    async def ensure_streams(self, partitions: int) -> None:
        """Make the streams of partitions 0 … n-1 and bring their limits to the settings.

        Raises:
            BusMisconfigured: the bus refuses; the text says what to do.
            BusUnavailable
        """

    def hint(self, topic: str) -> None:
        """Fire and forget: wake who waits on `topic`. Coalesced; may be lost: polling covers it."""

    def subscribe_hints(self, topic: str) -> asyncio.Event:
        """An event set by each hint on `topic` (and after a reconnect); the waiter clears it."""

    async def durability_warnings(self) -> list[str]:
        """What makes an acknowledgement less than durable, in sentences; empty when all is well."""

    async def close(self) -> None:
        """Publish nothing new, wait for what is on its way, then disconnect."""
