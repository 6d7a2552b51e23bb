"""What a case measures with: the embedded servers as `tollway up` starts them, durable, with a new database each.

Invariant: nothing is tuned for the measurement; the defaults that a user gets are what is measured.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from queries.models import Tenant

from billing.runtime.bus.base import Bus, BusSettings
from billing.runtime.bus.connect import connect_bus
from billing.runtime.clock import DatabaseClock
from billing.runtime.db import Database, DatabaseSettings, Role, connect, read_clock
from billing.runtime.embedded import EmbeddedSettings, RunningServers, start_servers
from billing.runtime.ids import new_id
from billing.runtime.vault import Vault, new_key_text
from billing.services import keys, tenants
from billing.services.actor import Cause
from billing.services.migrations import migrate
from server.house import House


@dataclass(frozen=True, slots=True)
class Result:
    """One figure. `limit` is what the same machine does without the part that is measured; None where there is none."""

    case: str
    figure: float
    unit: str
    limit: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The figure as a part of its limit."""
        return self.figure / self.limit if self.limit else None


@dataclass(frozen=True, slots=True)
class Environment:
    """A migrated database with pools of both roles, a bus, and a tenant with a key; and how much to do, 1 as usual."""

    folder: Path
    database_url: str
    nats_url: str
    servers: RunningServers
    api: Database
    worker: Database
    bus: Bus
    clock: DatabaseClock
    house: House
    tenant: Tenant
    key: str
    scale: float

    async def owner(self) -> asyncpg.Connection[asyncpg.Record]:
        """A connection as the owner, for setting up and for limits in pure SQL; the caller closes it."""
        return await asyncpg.connect(self.database_url)


@asynccontextmanager
async def environment(scale: float = 1.0) -> AsyncIterator[Environment]:
    """Starts everything in a new folder, and removes it afterwards. `scale` multiplies how much a case does."""
    folder = Path(tempfile.mkdtemp(prefix="tollway-bench-"))
    try:
        async with await start_servers(folder / "data", EmbeddedSettings()) as servers:
            await migrate(servers.database_url)
            bus = await connect_bus(servers.nats_url, BusSettings())

            api = await connect(servers.database_url, Role.API, DatabaseSettings(), bus.hint)
            worker = await connect(servers.database_url, Role.WORKER, DatabaseSettings(), bus.hint)
            clock = DatabaseClock()
            await read_clock(worker, clock)
            now = clock.now()
            async with worker.transaction() as tx:
                cause = Cause("opr_bench", new_id(now))
                tenant = await tenants.create_tenant(
                    tx, tenants.NewTenant("bench", "live", "UTC"), cause, now=now
                )
                draft = keys.NewKey("bench", (keys.Scope.ADMIN,))
                _, secret = await keys.create_key(tx, tenant.id, draft, cause, now=now)
            house = House(api, worker, clock, Vault.parse(new_key_text()))
            try:
                yield Environment(
                    folder,
                    servers.database_url,
                    servers.nats_url,
                    servers,
                    api,
                    worker,
                    bus,
                    clock,
                    house,
                    tenant,
                    secret,
                    scale,
                )
            finally:
                await api.close()
                await worker.close()
                await bus.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
