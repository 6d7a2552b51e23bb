"""Every path's ground: PostgreSQL and NATS of `tollway up`, started together and stopped together.

Invariant: while this process lives and the servers run, nobody else owns the folder; after a clean
stop, or a start that failed, no server is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from billing.runtime.embedded.errors import FolderUnusable, ServerFailed
from billing.runtime.embedded.folder import DataFolder
from billing.runtime.embedded.identity import choose
from billing.runtime.embedded.nats import Nats, find_program
from billing.runtime.embedded.ports import settle_all
from billing.runtime.embedded.postgres import Postgres, find_programs
from billing.runtime.embedded.process import ServerProcess, limit_log
from billing.runtime.embedded.settings import EmbeddedSettings, Way
from billing.runtime.embedded.state import State

WATCH_EVERY_S = 1.0
_STARTS_MAX = 3  # each with other ports, when a chosen one was taken before its server had it
_PORT_TAKEN = "address already in use"


class Server(StrEnum):
    """The two servers, as a person calls them."""

    POSTGRES = "PostgreSQL"
    NATS = "NATS"


class RunningServers:
    """Two servers that answer. Stop them, or use this as an async context manager."""

    def __init__(
        self,
        folder: DataFolder,
        postgres: Postgres,
        nats: Nats,
        running: dict[Server, ServerProcess],
    ) -> None:
        self._folder, self._postgres, self._nats = folder, postgres, nats
        self._running = running
        self._stopped = False

    @property
    def folder(self) -> Path:
        """The data folder, as an absolute path without links."""
        return self._folder.path

    @property
    def database_url(self) -> str:
        """postgresql://… of the database `tollway`, as its superuser; holds the password."""
        return self._postgres.url

    @property
    def nats_url(self) -> str:
        """nats://… with user and password."""
        return self._nats.url

    @property
    def nats_monitor_url(self) -> str:
        """http://… of NATS' monitoring pages, such as /jsz; no password."""
        return self._nats.monitor_url

    @property
    def pids(self) -> Mapping[Server, int]:
        """The process id of each server that is up."""
        return {server: process.pid for server, process in self._running.items()}

    async def watch(self) -> NoReturn:
        """Keep the logs short; raise ServerFailed as soon as a server ends on its own.

        Run it as a task beside the work, and cancel it before `stop`.
        """
        while True:
            for process in self._running.values():
                if process.has_ended():
                    raise process.ended_with()
                limit_log(process.program.log_path)
            await asyncio.sleep(WATCH_EVERY_S)

    @asynccontextmanager
    async def down(self, server: Server, *, kill: bool = False) -> AsyncIterator[None]:
        """An outage of one server for as long as the block runs; afterwards it answers again.

        With `kill` it loses power (SIGKILL); else it stops cleanly. For tests of faults.
        """
        process = self._running.pop(server)
        if kill:
            process.kill()
        await process.stop(grace_s=self._nats.settings.stop_grace_s)
        try:
            yield
        finally:
            starter = self._postgres if server is Server.POSTGRES else self._nats
            self._running[server] = await starter.start()

    async def stop(self) -> None:
        """Stop both servers and give the folder up. Safe to call again.

        Takes stop_grace_s and a few seconds at most. Cancelled, it still ends both, without grace.
        """
        if self._stopped:
            return
        self._stopped = True
        try:
            await _stop_all(self._running.values(), self._nats.settings.stop_grace_s)
        finally:
            self._folder.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()


async def start_servers(
    path: Path, settings: EmbeddedSettings, *, fresh: bool = False
) -> RunningServers:
    """Start PostgreSQL and NATS with their data in the folder `path`, made if need be.

    Servers that a killed owner left on the folder are stopped first. With `fresh`, the folder's data
    is deleted before. Raises an EmbeddedError: FolderInUse, FolderUnusable, BinaryMissing, PortInUse,
    NoWayToDropRoot or ServerFailed.
    """
    folder = DataFolder.open(path)
    try:
        return await _start_in(folder, settings, fresh=fresh)
    except OSError as error:
        folder.close()
        raise FolderUnusable(
            f"The data folder {folder.path} cannot be used: {error.strerror} ({error.filename})."
        ) from error
    except BaseException:
        folder.close()
        raise


async def _start_in(
    folder: DataFolder, settings: EmbeddedSettings, *, fresh: bool
) -> RunningServers:
    postgres, nats = _assemble(folder, settings)
    await postgres.stop_leftovers()
    await nats.stop_leftovers()
    if fresh:
        folder.erase()
    for attempt in range(1, _STARTS_MAX + 1):
        kept = folder.load_or_make_state()
        state = settle_all(settings, kept)
        if state != kept:
            folder.save_state(state)
        postgres, nats = replace(postgres, state=state), replace(nats, state=state)
        try:
            return RunningServers(folder, postgres, nats, await _start_both(postgres, nats))
        except ServerFailed as error:
            if attempt == _STARTS_MAX or _PORT_TAKEN not in error.log_tail.lower():
                raise
    raise AssertionError("the last attempt returns or raises")


def _assemble(folder: DataFolder, settings: EmbeddedSettings) -> tuple[Postgres, Nats]:
    """Both servers, with a state that is still to be read."""
    programs, nats_program = find_programs(), find_program()
    identity = choose(
        settings.run_as, folder=folder.path, programs=[programs / "postgres", nats_program]
    )
    if identity.way is Way.PLAIN:
        # Nobody has no more rights than anyone: let it through to its own folders below.
        folder.path.chmod(0o711)
    state = State(postgres_password="", nats_password="")
    return (
        Postgres(folder, state, identity, settings, programs),
        Nats(folder, state, identity, settings, nats_program),
    )


async def _start_both(postgres: Postgres, nats: Nats) -> dict[Server, ServerProcess]:
    """Start both at once. When one fails, none is left running."""
    starting = [asyncio.ensure_future(server.start()) for server in (postgres, nats)]
    try:
        first, second = await asyncio.gather(*starting)
    except BaseException:
        for task in starting:
            task.cancel()
        try:
            await asyncio.wait(starting)
        finally:
            started = [t.result() for t in starting if t.done() and not _has_failed(t)]
            await _stop_all(started, nats.settings.stop_grace_s)
        raise
    return {Server.POSTGRES: first, Server.NATS: second}


def _has_failed(task: asyncio.Future[ServerProcess]) -> bool:
    return task.cancelled() or task.exception() is not None


async def _stop_all(processes: Collection[ServerProcess], grace_s: float) -> None:
    """Stop all at once, and none is left, whatever happens meanwhile."""
    try:
        await asyncio.gather(*(process.stop(grace_s=grace_s) for process in processes))
    finally:
        # A task that is cancelled before its first step does nothing at all, not even its finally.
        for process in processes:
            process.end_now()
