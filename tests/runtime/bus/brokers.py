"""Real brokers that a test owns: it may kill them, stop them and start them again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import nats
from confluent_kafka import admin as kafka_admin

from billing.runtime.bus.base import Bus, BusMessage, BusSettings, Received
from billing.runtime.bus.connect import connect_bus
from tools.kafka_for_tests import Kafka, free_port

TENANT = "tnt_01h455vb4pex5vsknk084sn02q"

# Short waits: a test of an outage should not take the production timeouts.
QUICK = BusSettings(
    ack_timeout_s=2.0,
    request_timeout_s=5.0,
    connect_timeout_s=1.0,
    reconnect_first_s=0.01,
    reconnect_max_s=0.1,
    heartbeat_s=0.3,
    stream_max_bytes=64 * 1024 * 1024,
)


class Broker(Protocol):
    """What the conformance suite needs of a broker's outside."""

    drops_duplicates: bool

    @property
    def url(self) -> str: ...

    async def start(self) -> None: ...

    def kill(self) -> None: ...

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...

    async def delete_streams(self) -> None: ...


class NatsServer:
    """One nats-server process with its own folder and fixed ports."""

    drops_duplicates = True

    def __init__(self, folder: Path, *, sync: str = "always", extra: str = "") -> None:
        self.port, self.monitor_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = folder
        self._config = folder / "nats.conf"
        self._config.write_text(
            f"listen: 127.0.0.1:{self.port}\n"
            f"http: 127.0.0.1:{self.monitor_port}\n"
            f"jetstream {{ store_dir: {json.dumps(str(folder))}, sync_interval: {sync}, "
            "max_file: 4GB }\n" + extra
        )

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}?monitor=http://127.0.0.1:{self.monitor_port}"

    async def start(self) -> None:
        binary = Path(sys.executable).parent / "nats-server"
        with (self._folder / "nats.log").open("ab") as log:
            command: list[str | Path] = [binary, "-c", self._config]
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it only starts
                command, stdout=log, stderr=log
            )
        await until_async(self._accepts)

    async def _accepts(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def api(self, name: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream with a plain client, as an operator would."""
        client = await nats.connect(f"nats://127.0.0.1:{self.port}")
        try:
            body = json.dumps(request).encode() if request is not None else b""
            answer = await client.request(f"$JS.API.{name}", body, timeout=5)
            reply: dict[str, Any] = json.loads(answer.data)
            return reply
        finally:
            await client.close()

    async def delete_streams(self) -> None:
        for name in (await self.api("STREAM.NAMES"))["streams"] or []:
            await self.api(f"STREAM.DELETE.{name}")


@contextlib.asynccontextmanager
async def running(server: NatsServer) -> AsyncIterator[NatsServer]:
    """The server, started, and killed behind the block."""
    await server.start()
    try:
        yield server
    finally:
        server.kill()


class KafkaBroker:
    """The one Kafka of the session; each test begins without a topic."""

    drops_duplicates = False

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka

    @property
    def url(self) -> str:
        return f"kafka://{self.kafka.address}"

    async def start(self) -> None:
        await asyncio.to_thread(self.kafka.start)

    def kill(self) -> None:
        self.kafka.kill()

    def freeze(self) -> None:
        self.kafka.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.kafka.send(signal.SIGCONT)

    async def delete_streams(self) -> None:
        await asyncio.to_thread(self._delete)

    def _delete(self) -> None:
        admin: Any = kafka_admin.AdminClient({"bootstrap.servers": self.kafka.address})
        if "tollway.events" in admin.list_topics(timeout=10).topics:
            admin.delete_topics(["tollway.events"])["tollway.events"].result(10)


def message(
    number: int, *, key: str = "sub_a", partition: int = 0, body: bytes = b"", bus_id: str = ""
) -> BusMessage:
    """An event; the same number gives the same bus id."""
    event_id = f"evt_{number:08d}"
    return BusMessage(
        partition=partition,
        tenant=TENANT,
        subject="usage.reported",
        key=f"{TENANT}/{key}",
        bus_id=bus_id or event_id,
        headers={
            "specversion": "1.0",
            "id": event_id,
            "type": "usage.reported",
            "source": f"/tollway/{TENANT}",
            "subject": key,
            "time": "2026-01-02T03:04:05.000006Z",
            "datacontenttype": "application/protobuf",
        },
        body=body or uuid.uuid5(uuid.NAMESPACE_OID, event_id).bytes,
    )


def messages(first: int, count: int) -> list[BusMessage]:
    """A run of events."""
    return [message(number) for number in range(first, first + count)]


async def open_bus(broker: Broker, settings: BusSettings = QUICK) -> Bus:
    """A bus that has reached the broker."""
    bus = await connect_bus(broker.url, settings)
    await until(lambda: bus.connected)
    return bus


async def read(bus: Bus, count: int, after: int = 0, partition: int = 0) -> list[Received]:
    """The next `count` messages behind `after`."""
    received: list[Received] = []
    async with asyncio.timeout(30), bus.reader(partition, after) as reader:
        while len(received) < count:
            received += await reader.next_batch(count - len(received), 1.0)
    return received


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition lies in another process
            await asyncio.sleep(0.005)


async def until_async(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """Wait for a condition that must be asked for."""
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.005)
