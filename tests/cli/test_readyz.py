"""/readyz of a real process's parts: the database, the bus and the schema, each told apart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import asyncpg

from billing.runtime.settings import Settings
from billing.runtime.vault import new_key_text
from cli.compose import Parts, http_only, open_parts
from tests.conftest import Databases
from tests.server.wire import wire_to


@dataclass(frozen=True, slots=True)
class Process:
    """What a process works with, and where it is asked."""

    parts: Parts
    address: str

    async def ready(self) -> tuple[int, list[str]]:
        """The status, and a line for each part."""
        async with aiohttp.ClientSession() as session, session.get(self.address) as answer:
            return answer.status, (await answer.text()).splitlines()


@asynccontextmanager
async def process(database_url: str, bus_url: str) -> AsyncIterator[Process]:
    settings = Settings(
        database_url=database_url, bus_url=bus_url, secret_key=new_key_text(), http_port=0
    )
    async with open_parts(settings) as parts, http_only(parts) as http:
        yield Process(parts, f"http://127.0.0.1:{http.port}/readyz")


async def test_a_process_is_ready_only_with_database_bus_and_every_migration(
    databases: Databases, nats_url: str
) -> None:
    async with wire_to(databases.url) as (wire, url), process(url, nats_url) as asked:
        assert await asked.ready() == (200, ["database: ok", "bus: ok", "schema: ok"])
        owner = await asyncpg.connect(databases.url)
        newest = await owner.fetchrow(
            "DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)"
            " RETURNING *"
        )
        await owner.close()
        assert newest is not None
        status, (database, bus, schema) = await asked.ready()
        assert (status, database, bus) == (503, "database: ok", "bus: ok")
        assert schema.startswith("schema: lacks ")
        assert schema.endswith("; run `tollway migrate`")
        await asked.parts.bus.close()
        assert (await asked.ready())[1][1] == "bus: not connected"
        await wire.cut()
        status, (database, _, schema) = await asked.ready()
        assert status == 503
        assert "ok" not in database + schema
