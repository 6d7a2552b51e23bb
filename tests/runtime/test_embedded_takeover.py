"""Servers that a killed owner left behind are taken over, and nobody else is harmed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from billing.runtime.embedded import EmbeddedSettings, start_servers
from billing.runtime.embedded.identity import Identity, choose
from billing.runtime.embedded.process import until
from tests.runtime.embedded_data import (
    all_end,
    is_running,
    processes_on,
    read_the_facts,
    write_a_fact,
)
from tests.runtime.embedded_owner import Owner

SETTINGS = EmbeddedSettings(stop_grace_s=10)
FACTS = (["kept"], ["kept"])


async def test_servers_left_over_by_a_killed_owner_are_taken_over(tmp_path: Path) -> None:
    with Owner.spawn(tmp_path, die_with_owner=False) as owner:
        left = owner.started()
        await write_a_fact(left.database_url, left.nats_url, "kept")
        owner.kill()
    assert all(map(is_running, left.pids))

    async with await start_servers(tmp_path, SETTINGS) as running:
        assert not any(map(is_running, left.pids))
        assert (running.database_url, running.nats_url) == (left.database_url, left.nats_url)
        assert await read_the_facts(running.database_url, running.nats_url) == FACTS


async def test_where_the_kernel_can_it_stops_the_servers_of_a_killed_owner(tmp_path: Path) -> None:
    with Owner.spawn(tmp_path) as owner:
        left = owner.started()
        await write_a_fact(left.database_url, left.nats_url, "kept")
        owner.kill()
    assert await all_end(*left.pids)
    assert "database system is shut down" in (tmp_path / "postgres.log").read_text()

    async with await start_servers(tmp_path, SETTINGS) as running:
        assert await read_the_facts(running.database_url, running.nats_url) == FACTS


async def test_a_start_right_after_a_kill_races_with_nothing(tmp_path: Path) -> None:
    for _ in range(3):
        with Owner.spawn(tmp_path) as owner:
            left = owner.started()
            assert not left.error
            owner.kill()
    async with await start_servers(tmp_path, SETTINGS) as running:
        await write_a_fact(running.database_url, running.nats_url, "works")


async def test_leftovers_that_hear_nothing_are_ended_by_force_and_recovered_from(
    tmp_path: Path,
) -> None:
    with Owner.spawn(tmp_path, die_with_owner=False) as owner:
        left = owner.started()
        await write_a_fact(left.database_url, left.nats_url, "kept")
        owner.kill()
    for pid in left.pids:
        os.kill(pid, signal.SIGSTOP)

    async with await start_servers(tmp_path, EmbeddedSettings(stop_grace_s=0.1)) as running:
        assert not any(map(is_running, left.pids))
        assert await read_the_facts(running.database_url, running.nats_url) == FACTS


@pytest.mark.parametrize("die_with_owner", [True, False])
@pytest.mark.parametrize(
    "reached",
    [
        lambda folder: (folder / "state.json").exists(),
        lambda folder: any(folder.glob("postgres.new-*/base/1")),
        lambda folder: (folder / "postgres").exists(),
        lambda folder: (folder / "postgres" / "postmaster.pid").exists(),
    ],
    ids=["state", "initdb", "cluster", "server"],
)
async def test_a_first_start_killed_anywhere_can_be_repeated(
    tmp_path: Path, reached: Callable[[Path], bool], die_with_owner: bool
) -> None:
    with Owner.spawn(tmp_path, die_with_owner=die_with_owner) as owner:
        assert await until(lambda: reached(tmp_path), timeout_s=30)
        owner.kill()
    async with await start_servers(tmp_path, SETTINGS) as running:
        await write_a_fact(running.database_url, running.nats_url, "works")
    assert processes_on(tmp_path) == []


async def test_a_process_id_that_is_a_strangers_by_now_is_left_alone(tmp_path: Path) -> None:
    with Owner.spawn(tmp_path) as owner:
        assert not owner.started().error
    identity = choose(None, folder=tmp_path, programs=[])
    with _stranger(identity) as stranger:
        stale = tmp_path / "postgres" / "postmaster.pid"
        stale.write_text(
            f"{stranger.pid}\n{tmp_path / 'postgres'}\n1\n1\n\n127.0.0.1\n1 1\nready\n"
        )
        async with await start_servers(tmp_path, SETTINGS):
            assert stranger.poll() is None


@contextmanager
def _stranger(identity: Identity) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user as the servers that has nothing to do with them."""
    process = subprocess.Popen(identity.launch(["/bin/sleep", "60"], death_signal=signal.SIGKILL))
    try:
        yield process
    finally:
        process.kill()
        process.wait()
