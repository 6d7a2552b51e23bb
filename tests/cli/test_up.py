"""`tollway up` as a person runs it: a process that starts everything, tells where it is, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc.aio
from tollway.operations.v1 import operations_service_pb2 as pb
from tollway.operations.v1.operations_service_pb2_grpc import OperationsServiceStub

from cli.demo.airline import wait_for
from workers.leases import LeaseSettings

READY_TIMEOUT_S = 60.0


class Up:
    """A running `tollway up`."""

    def __init__(self, process: asyncio.subprocess.Process, ready_file: Path) -> None:
        self.process, self.ready_file = process, ready_file

    async def ready(self) -> dict[str, str]:
        """What the ready file says, once the process tells that it is up."""
        assert self.process.stdout is not None
        told = b""
        async with asyncio.timeout(READY_TIMEOUT_S):
            while b"Stop with Ctrl-C" not in told:
                line = await self.process.stdout.readline()
                assert line, f"it ended before it was ready: {told.decode()}"
                told += line
        found: dict[str, str] = json.loads(self.ready_file.read_text())
        return found

    async def end(self, number: signal.Signals) -> tuple[int, str]:
        """Signals it; its exit status and what it told."""
        self.process.send_signal(number)
        told, _ = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, told.decode()


@asynccontextmanager
async def starting(folder: Path) -> AsyncIterator[Up]:
    ready_file = folder / "ready.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "up", "--grpc-port", "0", "--http-port", "0"),
        *("--data-dir", str(folder / "data"), "--ready-file", str(ready_file)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Up(process, ready_file)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def until_leases_are_held(
    address: dict[str, str], timeout_s: float = READY_TIMEOUT_S
) -> None:
    """Waits until somebody holds the leases of each kind."""
    metadata = (("authorization", f"Bearer {address['operator_key']}"),)
    async with grpc.aio.insecure_channel(address["grpc"]) as channel:
        stub = OperationsServiceStub(channel)

        async def missing() -> str:
            status = await stub.GetStatus(pb.GetStatusRequest(), metadata=metadata)
            held = {lease.kind for lease in status.leases if lease.holder}
            return ", ".join(sorted({"dispatcher", "router", "sender"} - held))

        await wait_for(missing, timeout_s)


def processes_naming(folder: Path) -> list[str]:
    """The command lines of living processes that name the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


async def test_up_serves_tells_where_and_keeps_its_data_between_runs(tmp_path: Path) -> None:
    async with starting(tmp_path) as up:
        first = await up.ready()
        assert stat.S_IMODE(up.ready_file.stat().st_mode) == 0o600
        async with aiohttp.ClientSession() as session:
            async with session.get(first["http"] + "/healthz") as answer:
                assert (answer.status, await answer.text()) == (200, "ok\n")
            async with session.get(first["http"] + "/readyz") as answer:
                assert (answer.status, await answer.text()) == (
                    200,
                    "database: ok\nbus: ok\nschema: ok\n",
                )
        await until_leases_are_held(first)
        code, told = await up.end(signal.SIGTERM)
        assert code == 0, told
        assert "Traceback" not in told
        assert not up.ready_file.exists()
    assert processes_naming(tmp_path) == []

    async with starting(tmp_path) as up:
        second = await up.ready()
        assert second["operator_key"] == first["operator_key"]
        assert second["database_url"] == first["database_url"]
        code, told = await up.end(signal.SIGINT)
        assert code == 0, told
    assert processes_naming(tmp_path) == []


async def test_a_second_up_on_the_same_folder_is_refused_by_name(tmp_path: Path) -> None:
    async with starting(tmp_path) as up:
        await up.ready()
        other = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", "up", "--data-dir", str(tmp_path / "data")),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told, _ = await other.communicate()
        assert other.returncode == 1
        assert str(tmp_path / "data") in told.decode()
        assert "Traceback" not in told.decode()
        await up.end(signal.SIGTERM)


async def test_servers_and_workers_left_by_a_kill_are_taken_over(tmp_path: Path) -> None:
    async with starting(tmp_path) as up:
        first = await up.ready()
        up.process.kill()
        await up.process.communicate()
        up.ready_file.unlink()
    async with starting(tmp_path) as up:
        second = await up.ready()
        assert second["operator_key"] == first["operator_key"]
        # Sooner than the killed process's leases would have run out by themselves.
        await until_leases_are_held(second, timeout_s=LeaseSettings().lease_s - 3)
        code, told = await up.end(signal.SIGTERM)
        assert code == 0, told
    assert processes_naming(tmp_path) == []
