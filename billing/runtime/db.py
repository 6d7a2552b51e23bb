"""Every path: connections, roles and transactions.

Invariant: a tenant's statements run in a transaction that has named the tenant first, under the role that row-level
security binds; a worker's run under the role that it does not. Every connection has time limits, so nothing waits for
ever, and a commit wakes those whom it has something for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from billing.domain.errors import Unavailable
from billing.runtime import hints
from billing.runtime.clock import DatabaseClock

log = logging.getLogger(__name__)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

SERVER_VERSION_MIN: Final = 17  # transaction_timeout


# By (snapshot, read_only).
_BEGIN: Final = {
    (False, False): "BEGIN",
    (False, True): "BEGIN READ ONLY",
    (True, False): "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    (True, True): "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
}


class Role(StrEnum):
    """Which database role a pool's sessions take."""

    API = "tollway_api"
    WORKER = "tollway_worker"
    OWNER = "none"  # no other than the one that signs in; for what only the tables' owner may do


class ServerTooOld(Exception):
    """The PostgreSQL server is too old; Tollway needs version 17 or newer."""


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """Pool sizes and the limits that every session sets. Seconds and counts as the names say."""

    connections_max: int = 10
    connect_timeout_s: float = 10.0
    acquire_timeout_s: float = 10.0
    statement_timeout_s: float = 30.0
    lock_timeout_s: float = 5.0
    idle_in_transaction_timeout_s: float = 15.0
    transaction_timeout_s: float = 60.0


class Database:
    """A pool of sessions of one role."""

    def __init__(
        self,
        pool: Pool,
        settings: DatabaseSettings,
        hint: Callable[[str], None] | None = None,
    ) -> None:
        self.pool = pool
        self._settings = settings
        self._hint = hint

    @asynccontextmanager
    async def transaction(
        self,
        tenant_id: UUID | None = None,
        *,
        snapshot: bool = False,
        read_only: bool = False,
        lock_timeout_s: float | None = None,
    ) -> AsyncIterator[Connection]:
        """A transaction, committed at the end of the block and rolled back by any error.

        `tenant_id` names the tenant to row-level security. `snapshot` reads one moment (REPEATABLE READ, READ ONLY).
        A `lock_timeout_s` below the session's shortens the wait for locks.
        Raises Unavailable when no connection is free in time.
        """
        # One round trip: the driver's own transaction object would take two.
        begin = _BEGIN[snapshot, read_only]
        if tenant_id is not None:
            begin += f"; SET LOCAL tollway.tenant = '{tenant_id}'"
        if lock_timeout_s is not None and lock_timeout_s < self._settings.lock_timeout_s:
            begin += f"; SET LOCAL lock_timeout = {max(int(lock_timeout_s * 1000), 1)}"
        outer, topics = hints.current.get(), set[str]()
        hints.current.set(topics)
        try:
            async with self.connection() as connection:
                try:
                    await connection.execute(begin)
                    yield connection
                    await connection.execute("COMMIT")
                except BaseException:
                    # A cancelled task must not give back a session with an open transaction.
                    await _roll_back(connection)
                    raise
        finally:
            hints.current.set(outer)
        if self._hint is not None:
            for topic in topics:
                self._hint(topic)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A session outside a transaction, for single reads. Raises Unavailable when none is free in time."""
        try:
            # The pool's own timeout would start a task for each acquisition.
            async with asyncio.timeout(self._settings.acquire_timeout_s):
                connection = await self.pool.acquire()
        except (TimeoutError, OSError, asyncpg.PostgresConnectionError) as error:
            raise Unavailable("The database cannot be reached now.", retry_after_s=1) from error
        try:
            yield connection
        finally:
            await self.pool.release(connection)

    async def close(self) -> None:
        """Waits for the sessions in use, then closes all."""
        await self.pool.close()


async def connect(
    database_url: str,
    role: Role,
    settings: DatabaseSettings,
    hint: Callable[[str], None] | None = None,
) -> Database:
    """Opens a pool of sessions under `role`, whose commits give their hints to `hint`.

    Raises ServerTooOld, or what the driver raises when nothing answers.
    """

    def milliseconds(seconds: float) -> str:
        return str(int(seconds * 1000))

    pool = await asyncpg.create_pool(
        database_url,
        min_size=1,
        max_size=settings.connections_max,
        timeout=settings.connect_timeout_s,
        reset=_leave_as_is,
        server_settings={
            "role": role.value,
            "application_name": f"tollway {role.name.lower()}",
            "timezone": "UTC",
            "jit": "off",
            "statement_timeout": milliseconds(settings.statement_timeout_s),
            "lock_timeout": milliseconds(settings.lock_timeout_s),
            "idle_in_transaction_session_timeout": milliseconds(
                settings.idle_in_transaction_timeout_s
            ),
            "transaction_timeout": milliseconds(settings.transaction_timeout_s),
        },
    )
    async with pool.acquire() as connection:
        if connection.get_server_version().major < SERVER_VERSION_MIN:
            await pool.close()
            raise ServerTooOld(ServerTooOld.__doc__)
    return Database(pool, settings, hint)


async def _roll_back(connection: Connection) -> None:
    """Ends a failed transaction. What goes wrong here must not stand before the error that led here."""
    try:
        # A lost session has left the pool by itself, and may be asked nothing any more: InterfaceError.
        if not connection.is_closed() and connection.is_in_transaction():
            await connection.execute("ROLLBACK")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        log.warning("a session was dropped, since its rollback failed: %s", error)
        with suppress(asyncpg.InterfaceError):
            connection.terminate()


async def _leave_as_is(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Sessions set nothing but LOCAL things, so a released one needs no reset and saves a round trip.

    The driver itself rolls back what is still open: where a task was cancelled a second time, within its rollback.
    """


async def read_clock(database: Database, clock: DatabaseClock) -> None:
    """Sets `clock` by the database's; run at start and every minute."""
    async with database.connection() as connection:
        began = time.monotonic()
        now = await connection.fetchval("VALUES (clock_timestamp())")
        clock.set(now, time.monotonic() - began)
