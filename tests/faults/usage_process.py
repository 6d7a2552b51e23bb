"""A gRPC server as a process of its own, to be killed: it commits usage, and never gets to answer.

Usage: python -m tests.faults.usage_process DATABASE_URL DIES_AFTER
DIES_AFTER commits the process kills itself, before anything of the last one is told. Prints its port first.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from billing.runtime.clock import DatabaseClock
from billing.runtime.db import Connection, Database, DatabaseSettings, Role, connect, read_clock
from billing.runtime.vault import Vault
from server.app import ServerSettings, start_grpc
from server.house import House


class Mortal(Database):
    """A pool whose process dies behind its last commit."""

    lives: int

    @asynccontextmanager
    async def transaction(self, *arguments: Any, **options: Any) -> AsyncIterator[Connection]:
        """As its parent's; then perhaps the end."""
        async with super().transaction(*arguments, **options) as tx:
            yield tx
        self.lives -= 1
        if self.lives <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(database_url: str, lives: str) -> None:
    """Serves until it dies."""
    settings = DatabaseSettings()
    api = await connect(database_url, Role.API, settings)
    worker = await connect(database_url, Role.WORKER, settings)
    clock = DatabaseClock()
    await read_clock(worker, clock)
    mortal = Mortal(api.pool, settings)
    mortal.lives = int(lives)
    house = House(mortal, worker, clock, Vault(bytes(32)))
    server = await start_grpc(house, ServerSettings(port=0), CollectorRegistry())
    print(server.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
