"""Publish path, step 3, and the sweeper: the streams themselves, through the JetStream API.

One stream per partition, `TOLLWAY_EVENTS_<p>`, so that sequences are dense and a full or lost one
stops only its partition. Invariants: `discard: new` (a full stream refuses, it never drops what is
unrouted), no max_age, every limit explicit.

A stream's identity is its `created` time as the server tells it. The server sets it when the
stream is made, in nanoseconds, and keeps it over restarts, leader changes and updates; unlike an
id of our own in the stream's metadata it also changes when somebody makes the stream again from a
saved configuration.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from billing.runtime.bus.base import (
    BusMisconfigured,
    BusSettings,
    BusUnavailable,
    StreamMissing,
    StreamState,
    require_identity,
)
from billing.runtime.bus.nats_connection import NatsConnection, NobodyListens, PublishDenied
from billing.runtime.bus.nats_wire import PREFIX, pub

NANOSECONDS = 1_000_000_000
REPLICAS_WANTED = 3  # where there are as many servers
CONSUMERS_MAX = 64  # readers of one partition: one owner, some zombies, an operator looking
STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
NAME_IN_USE = 10058
# A cluster that finds itself again: not assigned, not the leader, raft, change under way.
_PASSING = frozenset({10007, 10009, 10041, 10202, 10226})


class ApiError(BusUnavailable):
    """An error that the JetStream API answered; for most callers no more than an outage."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.status = int(error.get("code", 0))
        self.code = int(error.get("err_code", 0))
        self.description = str(error.get("description", ""))
        super().__init__(f"{self.description} (JetStream error {self.code})")

    @property
    def may_pass(self) -> bool:
        """Whether waiting may help; else somebody has to change the configuration."""
        return self.status in {429, 503} or self.code in _PASSING


def durability_warnings(told: dict[str, Any], replicas: int) -> list[str]:
    """What makes an acknowledgement less than durable, by the server's own account of JetStream (/jsz)."""
    warnings = []
    config, cluster = told.get("config", {}), told.get("meta_cluster", {})
    if not config.get("sync_always"):
        interval_s = int(config.get("sync_interval", 0)) / NANOSECONDS
        warnings.append(
            f"nats-server syncs to disk every {interval_s:g} s, so a power failure loses what it "
            "acknowledged meanwhile; set `sync_interval: always` in its jetstream block"
        )
    if int(cluster.get("cluster_size", 1)) >= REPLICAS_WANTED > replicas:
        warnings.append(
            f"the streams have {replicas} replica(s) in a cluster of {cluster['cluster_size']}: a server that is lost"
            f" takes its partitions with it; add replicas={REPLICAS_WANTED} to the bus URL"
        )
    return warnings


def stream_name(partition: int) -> str:
    """The stream of a partition."""
    return f"TOLLWAY_EVENTS_{partition}"


async def call(
    connection: NatsConnection, name: str, request: dict[str, Any] | None, timeout_s: float
) -> dict[str, Any]:
    """One request to `$JS.API.<name>`.

    Raises:
        StreamMissing, ApiError, BusUnavailable: outages to whoever did not ask for the impossible.
        BusMisconfigured: this user may not call the API.
    """
    subject = f"$JS.API.{name}"
    question = connection.question(lambda: (subject,))
    body = b"" if request is None else json.dumps(request).encode()
    try:
        connection.send(pub(subject, question.inbox, body))
        answer = await connection.answer(question, timeout_s)
    except NobodyListens as error:
        raise BusUnavailable("JetStream does not answer; is it enabled?") from error
    except PublishDenied as error:
        raise BusMisconfigured(f"the NATS user lacks a right: {error}") from error
    finally:
        connection.forget(question)
    reply: dict[str, Any] = json.loads(answer.body)
    if "error" not in reply:
        return reply
    api_error = ApiError(reply["error"])
    if api_error.code == STREAM_NOT_FOUND:
        raise StreamMissing(f"{name}: {api_error}")
    raise api_error


def stream_config(partition: int, settings: BusSettings) -> dict[str, Any]:
    """Everything we ask of a partition's stream."""
    return {
        "name": stream_name(partition),
        "subjects": [f"{PREFIX}.{partition}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": settings.replicas,
        "max_bytes": settings.stream_max_bytes,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_age": 0,
        "max_msg_size": settings.message_max_bytes,
        "max_consumers": CONSUMERS_MAX,
        "duplicate_window": int(settings.duplicate_window_s * NANOSECONDS),
        "allow_atomic": True,
        "allow_direct": True,
    }


async def ensure_stream(connection: NatsConnection, partition: int, settings: BusSettings) -> None:
    """Make the stream, or bring the one that is there to our configuration.

    Raises:
        BusMisconfigured: the server refuses the configuration.
        BusUnavailable
    """
    wanted = stream_config(partition, settings)
    name, timeout_s = wanted["name"], settings.request_timeout_s
    try:
        try:
            found = (await call(connection, f"STREAM.INFO.{name}", None, timeout_s))["config"]
        except StreamMissing:
            try:
                await call(connection, f"STREAM.CREATE.{name}", wanted, timeout_s)
                return
            except ApiError as error:
                if (
                    error.code != NAME_IN_USE
                ):  # else: another process was first, with other settings
                    raise
            found = {}
        if any(found.get(option) != value for option, value in wanted.items()):
            # Options that we do not set (placement, compression, …) stay as the operator chose
            # them.
            await call(connection, f"STREAM.UPDATE.{name}", {**found, **wanted}, timeout_s)
    except ApiError as error:
        if error.may_pass:
            raise
        raise BusMisconfigured(f"stream {name} cannot be made or updated: {error}") from error


def state_of(reply: dict[str, Any]) -> StreamState:
    """A stream's state from a STREAM.INFO answer."""
    state = reply["state"]
    # An empty new stream says first_seq 0; one emptied by a purge says last_seq + 1.
    first = max(int(state["first_seq"]), 1) if state["messages"] else int(state["last_seq"]) + 1
    return StreamState(
        identity=reply["created"],
        first_seq=first,
        last_seq=int(state["last_seq"]),
        stored_bytes=int(state["bytes"]),
        max_bytes=max(int(reply["config"].get("max_bytes", 0)), 0),
    )


async def read_state(connection: NatsConnection, partition: int, timeout_s: float) -> StreamState:
    """The stream as the server sees it now.

    Raises:
        StreamMissing, BusUnavailable
    """
    reply = await call(connection, f"STREAM.INFO.{stream_name(partition)}", None, timeout_s)
    return state_of(reply)


async def purge(
    connection: NatsConnection, partition: int, up_to: int, identity: str | None, timeout_s: float
) -> None:
    """Remove the messages up to and including `up_to`.

    Raises:
        StreamChanged: not the stream `identity`.
        StreamMissing, BusUnavailable
    """
    state = await read_state(connection, partition, timeout_s)
    require_identity(state, identity)
    # Behind the end, a purge would also move the end; without a sequence, it would empty the
    # stream.
    up_to = min(up_to, state.last_seq)
    if up_to >= state.first_seq:
        name = stream_name(partition)
        await call(connection, f"STREAM.PURGE.{name}", {"seq": up_to + 1}, timeout_s)


async def last_before(
    connection: NatsConnection, partition: int, at: datetime, timeout_s: float
) -> int:
    """The last sequence stored before `at`: one less than where a consumer from `at` begins."""
    name = stream_name(partition)
    consumer = connection.new_inbox().rsplit(".", 1)[-1]
    start = at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    config = consumer_config(consumer, 5.0)
    config |= {"deliver_policy": "by_start_time", "opt_start_time": start}
    request = {"stream_name": name, "config": config}
    reply = await call(connection, f"CONSUMER.CREATE.{name}.{consumer}", request, timeout_s)
    await call(connection, f"CONSUMER.DELETE.{name}.{consumer}", None, timeout_s)
    return int(reply["delivered"]["stream_seq"])


def consumer_config(name: str, linger_s: float) -> dict[str, Any]:
    """A reader's consumer: no acknowledgements, in memory, gone `linger_s` after its last pull."""
    return {
        "name": name,
        "ack_policy": "none",
        "replay_policy": "instant",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": int(linger_s * NANOSECONDS),
    }
