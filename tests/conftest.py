"""The servers that all tests share: a real PostgreSQL and a real NATS per pytest-xdist worker.

They start on first use and stop with the session; when pytest is killed, the kernel stops them. They
are not durable (`durable=False`): tests are about the code, and `test_embedded*` about durability.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import hypothesis
import pytest

from billing.runtime.clock import DatabaseClock
from billing.runtime.db import Database, DatabaseSettings, Role, connect, read_clock
from billing.runtime.embedded import EmbeddedSettings, RunningServers, start_servers
from billing.services.migrations import migrate
from tests.databases import create_database, drop_database

T = TypeVar("T")

TEST_SETTINGS = EmbeddedSettings(
    durable=False,
    shared_buffers_mb=64,
    connections_max=200,
    # Streams of tests reserve their limits here side by side; nothing is used before it is written.
    nats_store_mb_max=16_777_216,
)

_numbers = itertools.count(1)

# It compares for a test, and says what differs as a test would.
pytest.register_assert_rewrite("tests.paths.billing_twins")

# A test's size is a setting: `make test` runs everything once with small counts, `make test-long` with full ones.
LONG = os.environ.get("TOLLWAY_TEST_SIZE") == "long"
hypothesis.settings.register_profile("short", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.register_profile("long", deadline=None, max_examples=1_000, print_blob=True)
hypothesis.settings.load_profile("long" if LONG else "short")


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end on a loop of its own, apart from the loops of the tests.

    In this very thread: the kernel takes the end of the thread that started a server for our death.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServers]:
    """PostgreSQL and NATS for this session (for this worker under pytest-xdist)."""
    folder = tmp_path_factory.mktemp("servers")
    running = _finish(start_servers(folder, TEST_SETTINGS))
    yield running
    _finish(running.stop())
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_url(servers: RunningServers) -> str:
    """The test server's own database, as superuser: for making and dropping databases."""
    return servers.database_url


@pytest.fixture(scope="session")
def nats_url(servers: RunningServers) -> str:
    """The address of the test NATS. It is shared: give your streams names of your own."""
    return servers.nats_url


@pytest.fixture(scope="session")
def nats_monitor_url(servers: RunningServers) -> str:
    """The monitoring address of the test NATS."""
    return servers.nats_monitor_url


@pytest.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """A new, empty database, dropped afterwards with all connections to it."""
    name = f"empty_{next(_numbers)}"
    yield await create_database(postgres_url, name)
    await drop_database(postgres_url, name)


@pytest.fixture(scope="session")
def migrated_template(postgres_url: str) -> str:
    """The name of a database with all migrations applied, made once; copy it, never connect to it."""
    name = "migrated"

    async def make() -> None:
        url = await create_database(postgres_url, name)
        await migrate(url)

    _finish(make())
    return name


@dataclass(frozen=True, slots=True)
class Databases:
    """A migrated database of one test: the pools of both roles, and the owner's URL."""

    url: str
    api: Database
    worker: Database
    clock: DatabaseClock


@pytest.fixture
async def databases(postgres_url: str, migrated_template: str) -> AsyncIterator[Databases]:
    """A fresh database with all migrations applied, and pools under both roles."""
    name = f"house_{next(_numbers)}"
    url = await create_database(postgres_url, name, migrated_template)
    settings = DatabaseSettings(connections_max=10)
    clock = DatabaseClock()
    api = await connect(url, Role.API, settings)
    worker = await connect(url, Role.WORKER, settings)
    await read_clock(worker, clock)
    yield Databases(url, api, worker, clock)
    await api.close()
    await worker.close()
    await drop_database(postgres_url, name)
