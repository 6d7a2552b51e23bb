"""The embedded PostgreSQL and NATS: started, stopped, kept between runs, closed to strangers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import asyncpg
import pytest

from billing.runtime.embedded import (
    EmbeddedSettings,
    FolderInUse,
    PortInUse,
    RunningServers,
    Server,
    ServerFailed,
    start_servers,
)
from billing.runtime.embedded.process import until
from tests.runtime.embedded_data import all_end, is_running, read_the_facts, write_a_fact
from tests.runtime.embedded_owner import Owner

DURABLE = EmbeddedSettings()
LOOSE = EmbeddedSettings(durable=False, shared_buffers_mb=32)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[RunningServers]:
    """Servers of this test alone, with the settings that a customer gets."""
    async with await start_servers(tmp_path / "data", DURABLE) as running:
        yield running


async def test_data_and_addresses_are_kept_from_run_to_run_and_nothing_runs_between(
    tmp_path: Path,
) -> None:
    folder = tmp_path / 'a "folder" of müller\'s'
    async with await start_servers(folder, DURABLE) as first:
        addresses = first.database_url, first.nats_url, first.nats_monitor_url
        await write_a_fact(first.database_url, first.nats_url, "kept")
        pids = first.pids.values()
    assert not any(map(is_running, pids))

    async with await start_servers(folder, DURABLE) as second:
        assert (second.database_url, second.nats_url, second.nats_monitor_url) == addresses
        assert await read_the_facts(second.database_url, second.nats_url) == (["kept"], ["kept"])

    async with await start_servers(folder, LOOSE, fresh=True) as third:
        assert third.database_url != addresses[0]
        with pytest.raises(asyncpg.UndefinedTableError):
            await read_the_facts(third.database_url, third.nats_url)


async def test_the_defaults_are_durable_and_listen_to_this_machine_only(
    house: RunningServers,
) -> None:
    connection = await asyncpg.connect(house.database_url)
    rows = await connection.fetch("SELECT name, setting FROM pg_settings")
    setting = {row["name"]: row["setting"] for row in rows}
    await connection.close()
    jetstream = _get(f"{house.nats_monitor_url}/jsz")["config"]
    listening = _get(f"{house.nats_monitor_url}/varz")

    assert setting["fsync"] == setting["synchronous_commit"] == setting["full_page_writes"] == "on"
    assert setting["listen_addresses"] == listening["host"] == "127.0.0.1"
    assert setting["unix_socket_directories"] == ""
    assert setting["TimeZone"] == "UTC"
    assert setting["server_version_num"].startswith("18")
    assert setting["data_checksums"] == "on"
    assert jetstream["sync_always"] is True
    assert listening["max_payload"] == 1024 * 1024


async def test_nobody_gets_in_without_the_password(house: RunningServers) -> None:
    database, bus = urlsplit(house.database_url), urlsplit(house.nats_url)
    for credentials in ("tollway:guess", "postgres:guess", "nobody:guess"):
        strange = database._replace(netloc=f"{credentials}@127.0.0.1:{database.port}").geturl()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(strange)
    for connect in (b"CONNECT {}\r\n", b'CONNECT {"user":"tollway","pass":"guess"}\r\n'):
        assert b"Authorization Violation" in await _ask(bus.port or 0, connect + b"PING\r\n")


async def test_no_password_can_be_read_by_others(house: RunningServers) -> None:
    for path in house.folder.iterdir():
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path
    for pid in house.pids.values():
        for told in ("cmdline", "environ"):
            assert _password_of(house) not in _tell(pid, told)


async def test_a_folder_in_use_is_refused_with_its_path_and_the_owners_process_id(
    house: RunningServers,
) -> None:
    with pytest.raises(FolderInUse) as here:
        await start_servers(house.folder, DURABLE, fresh=True)
    with Owner.spawn(house.folder) as other:
        elsewhere = other.started()

    assert here.value.pid == os.getpid()
    for message in (str(here.value), elsewhere.error):
        assert str(house.folder) in message
        assert f"process {os.getpid()}" in message
    await write_a_fact(house.database_url, house.nats_url, "undisturbed")


async def test_a_taken_port_is_refused_when_given_and_replaced_when_chosen(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(PortInUse, match=str(port)):
            await start_servers(folder, EmbeddedSettings(nats_port=port))

    async with await start_servers(folder, LOOSE) as running:
        chosen = urlsplit(running.database_url).port
    with socket.create_server(("127.0.0.1", chosen or 0)):
        async with await start_servers(folder, LOOSE) as running:
            assert urlsplit(running.database_url).port != chosen


async def test_a_server_that_ends_on_its_own_is_told_with_the_end_of_its_log(
    house: RunningServers,
) -> None:
    watching = asyncio.ensure_future(house.watch())
    os.kill(house.pids[Server.NATS], signal.SIGTERM)
    with pytest.raises(ServerFailed, match="NATS ended on its own") as told:
        await asyncio.wait_for(watching, timeout=30)
    assert "Server Exiting" in told.value.log_tail


async def test_what_was_acknowledged_outlives_the_kill_of_either_server(
    house: RunningServers,
) -> None:
    await write_a_fact(house.database_url, house.nats_url, "acknowledged")
    async with house.down(Server.POSTGRES, kill=True), house.down(Server.NATS, kill=True):
        with pytest.raises(OSError, match="onnect"):
            await asyncpg.connect(house.database_url)
    answer = await read_the_facts(house.database_url, house.nats_url)
    assert answer == (["acknowledged"], ["acknowledged"])


async def test_a_start_that_fails_leaves_nothing_running_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data"
    async with await start_servers(folder, LOOSE) as running:
        await write_a_fact(running.database_url, running.nats_url, "kept")
    version = folder / "postgres" / "PG_VERSION"
    version.write_text("17\n")
    before = _children()
    with pytest.raises(
        ServerFailed, match="Dump the data with the release that wrote it"
    ) as failure:
        await start_servers(folder, LOOSE)
    assert "initialized by PostgreSQL version 17" in failure.value.log_tail
    assert _children() == before

    version.write_text("18\n")
    async with await start_servers(folder, LOOSE) as running:
        assert await read_the_facts(running.database_url, running.nats_url) == (["kept"], ["kept"])


@pytest.mark.parametrize(
    "reached",
    [
        lambda folder: any(folder.glob("postgres.new-*/base")),
        lambda folder: (folder / "postgres" / "postmaster.pid").exists(),
    ],
    ids=["initdb", "server"],
)
async def test_a_first_start_interrupted_anywhere_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, reached: Callable[[Path], bool]
) -> None:
    folder = tmp_path / "data"
    before = _children()
    starting = asyncio.ensure_future(start_servers(folder, LOOSE))
    assert await until(lambda: reached(folder), timeout_s=30)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert _children() == before

    async with await start_servers(folder, LOOSE) as running:
        await write_a_fact(running.database_url, running.nats_url, "works")


async def test_a_cancelled_stop_still_leaves_nothing(tmp_path: Path) -> None:
    running = await start_servers(tmp_path / "data", LOOSE)
    pids = tuple(running.pids.values())
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # a server that hears no polite word
    stopping = asyncio.ensure_future(running.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert await all_end(*pids)
    await running.stop()


def _get(url: str) -> dict[str, Any]:
    with urlopen(url, timeout=10) as answer:
        page: dict[str, Any] = json.load(answer)
    return page


def _password_of(house: RunningServers) -> str:
    return urlsplit(house.database_url).password or "?"


def _tell(pid: int, what: str) -> str:
    return Path(f"/proc/{pid}/{what}").read_text(encoding="utf-8")


async def _ask(port: int, request: bytes) -> bytes:
    """Everything that the server on `port` answers until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def _children() -> set[int]:
    """The living processes that this one has started."""
    return {
        int(entry)
        for entry in os.listdir("/proc")
        if entry.isdecimal() and is_running(int(entry)) and _parent_of(entry) == os.getpid()
    }


def _parent_of(entry: str) -> int:
    try:
        stat = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[1])
