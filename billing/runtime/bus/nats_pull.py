"""Router path, step 1: read a partition from a stored position on.

Own overlapped pull: a consumer without acknowledgements (AckPolicy NONE, in memory, start at the
position + 1), several pull requests under way at once, heartbeats, and a look at the clock. The
client's `fetch()` is not used: it stalls for seconds now and then and forgets its requests on
reconnect.

Invariant: what `next_batch` hands out is a prefix of the stream behind the position, in order and
without a hole of the way's making: the consumer numbers its deliveries, and a missing number ends
the reader. A jump in the stream's own sequence is a hole in the stream (trimmed, erased) and is
passed over.
"""

from __future__ import annotations

import asyncio
import json
from types import TracebackType

from billing.runtime.bus.base import (
    BusSettings,
    BusUnavailable,
    ReaderLost,
    Received,
    SequenceGap,
    StreamState,
    require_identity,
    require_position,
)
from billing.runtime.bus.nats_connection import NatsConnection
from billing.runtime.bus.nats_link import NatsLink
from billing.runtime.bus.nats_streams import (
    NANOSECONDS,
    call,
    consumer_config,
    read_state,
    stream_name,
)
from billing.runtime.bus.nats_wire import NatsReceived, header_value, pub, status_of

Arrived = tuple[list[bytes], bytes, bytes]  # split control line, header block, body

HEARTBEAT, TIMED_OUT, CONFLICT, NOT_FOUND = 100, 408, 409, 404
SILENCE = 2.5  # heartbeats missed before a reader is lost
# Endings of one pull request after which the next one works as before.
_ORDINARY_ENDS = (b"Batch Completed", b"Message Size Exceeds MaxBytes")


class NatsReader:
    """One consumer of one partition; an async context manager, used once."""

    def __init__(
        self,
        link: NatsLink,
        settings: BusSettings,
        partition: int,
        after: int,
        identity: str | None,
    ) -> None:
        self._link = link
        self._settings = settings
        self._partition = partition
        self._after = after
        self._identity = identity
        self._stream = stream_name(partition)
        self._connection: NatsConnection | None = None
        self._state: StreamState | None = None
        self._consumer = ""
        self._inbox = ""
        self._sid = b""
        self._arrived: list[Arrived] = []
        self._arrived_bytes = 0
        self._asked_for = 0  # messages of pull requests under way
        self._pulls = 0
        self._delivered = 0  # the consumer's own numbering
        self._heard_at = 0.0
        self._fault: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def state(self) -> StreamState:
        """The stream as it was when the reader was made."""
        assert self._state is not None, "the reader was not entered"
        return self._state

    # --- life

    async def __aenter__(self) -> NatsReader:
        connection = self._connection = self._link.connection
        self._inbox = connection.new_inbox()
        self._consumer = self._inbox.rsplit(".", 1)[-1]
        config = consumer_config(self._consumer, self._settings.reader_linger_s)
        config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self._after + 1}
        try:
            await self._api("CONSUMER.CREATE", {"stream_name": self._stream, "config": config})
            # Looked at behind the consumer's making: it stands on this very stream or on none.
            self._state = await read_state(
                connection, self._partition, self._settings.request_timeout_s
            )
            require_identity(self._state, self._identity)
            # A consumer may start behind the end and would wait there, past everything new below.
            require_position(self._state, self._after)
            self._sid = connection.listen(f"{self._inbox}.*", self._on_message)
            self._ask()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        """Stop listening and delete the consumer, unawaited: it would vanish by itself too."""
        connection, self._connection = self._connection, None
        self._fault = self._fault or ReaderLost("the reader is closed")
        if connection is None or not connection.usable:
            return
        if self._sid:
            connection.unlisten(self._sid)
        subject = f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}"
        try:
            connection.send(pub(subject, "", b""))
        except BusUnavailable:
            return

    async def _api(self, verb: str, request: dict[str, object]) -> None:
        assert self._connection is not None
        name = f"{verb}.{self._stream}.{self._consumer}"
        await call(self._connection, name, request, self._settings.request_timeout_s)

    # --- asking

    def _ask(self) -> None:
        """Keep pull requests under way for all that memory may hold: the server never idles."""
        settings = self._settings
        connection = self._connection
        if connection is None or self._fault is not None:
            return
        request = json.dumps(
            {
                "batch": settings.pull_batch,
                "max_bytes": settings.pull_max_bytes,
                "expires": int(settings.pull_expires_s * NANOSECONDS),
                "idle_heartbeat": int(settings.heartbeat_s * NANOSECONDS),
            }
        ).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        while (
            self._arrived_bytes < settings.buffer_max_bytes
            and self._asked_for + len(self._arrived) + settings.pull_batch <= settings.pull_ahead
        ):
            self._pulls += 1
            connection.send(pub(subject, f"{self._inbox}.{self._pulls}", request))
            self._asked_for += settings.pull_batch
            # With nothing asked for there were no heartbeats: silence counts from now on.
            self._heard_at = asyncio.get_running_loop().time()

    # --- hearing

    def _on_message(self, fields: list[bytes], block: bytes, body: bytes) -> None:
        if len(fields) < 6 or not fields[3].startswith(b"$JS.ACK."):  # no reply subject: not data
            self._on_status(block)
        else:
            self._arrived.append((fields, block, body))
            self._arrived_bytes += len(body) + len(block)
            self._asked_for -= 1  # and one more waits: `next_batch` makes room to ask again
        waiter = self._waiter
        if waiter is not None and not waiter.done() and (self._arrived or self._fault):
            waiter.set_result(None)
        self._heard_at = asyncio.get_running_loop().time()

    def _on_status(self, block: bytes) -> None:
        status = status_of(block)
        if status == HEARTBEAT:
            return
        if status in (TIMED_OUT, NOT_FOUND) or any(end in block for end in _ORDINARY_ENDS):
            left = header_value(block, b"Nats-Pending-Messages")
            self._asked_for -= int(left) if left.isdigit() else self._settings.pull_batch
            self._asked_for = max(self._asked_for, 0)
            self._top_up()
        else:  # consumer deleted, leader changed, server shutting down, nobody there
            text = block[9:].split(b"\r\n", 1)[0].decode("utf-8", "replace")
            self._fault = ReaderLost(f"reader of {self._stream} ended: {text}")

    def _top_up(self) -> None:
        try:
            self._ask()
        except BusUnavailable as error:
            self._fault = error

    # --- handing out

    async def next_batch(self, max_messages: int, wait_s: float) -> list[Received]:
        """The next messages; see `base.Reader`."""
        if not self._arrived:
            await self._wait(wait_s)
        if not self._arrived:
            self._raise_fault()
            return []
        taken = self._arrived[:max_messages]
        del self._arrived[:max_messages]
        self._arrived_bytes -= sum([len(block) + len(body) for _, block, body in taken])
        self._top_up()
        return self._number(taken)

    async def _wait(self, wait_s: float) -> None:
        """Until something arrives, something breaks, or the time is over."""
        loop = asyncio.get_running_loop()
        connection = self._connection
        if connection is None or self._fault is not None:
            return
        silent_at = self._heard_at + self._settings.heartbeat_s * SILENCE
        deadline = min(loop.time() + wait_s, max(silent_at, loop.time() + 0.01))
        self._waiter = loop.create_future()
        connection.on_end(self._waiter)
        try:
            async with asyncio.timeout_at(deadline):
                await self._waiter
        except TimeoutError:
            pass
        finally:
            connection.off_end(self._waiter)
            self._waiter = None
        if not connection.usable:
            self._fault = self._fault or BusUnavailable(f"lost NATS while reading {self._stream}")
        elif loop.time() >= self._heard_at + self._settings.heartbeat_s * SILENCE:
            self._fault = self._fault or ReaderLost(f"no heartbeat from {self._stream}")

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _number(self, taken: list[Arrived]) -> list[Received]:
        """Give each message its sequence, from the reply subjects of the first and the last.

        Both numberings only ever rise, so when first and last are as far apart as there are
        messages, there is no hole between.
        """
        count = len(taken)
        first, first_delivery = _sequences(taken[0][0][3])
        last, last_delivery = _sequences(taken[-1][0][3])
        if first_delivery != self._delivered + 1 or last_delivery != self._delivered + count:
            self._arrived.clear()
            self._fault = SequenceGap(
                f"{self._stream}: delivery {self._delivered + 1} was lost on the way"
            )
            raise self._fault
        self._delivered = last_delivery
        if last - first == count - 1:
            sequences = list(range(first, last + 1))
        else:
            sequences = [_sequences(fields[3])[0] for fields, _, _ in taken]
        return [
            NatsReceived(sequence, fields[1], block, body)
            for sequence, (fields, block, body) in zip(sequences, taken, strict=True)
        ]


def _sequences(reply: bytes) -> tuple[int, int]:
    """Stream and consumer sequence of `$JS.ACK.…`; a domain puts two more tokens in front."""
    tokens = reply.split(b".")
    at = 5 if len(tokens) == 9 else 7
    return int(tokens[at]), int(tokens[at + 1])
