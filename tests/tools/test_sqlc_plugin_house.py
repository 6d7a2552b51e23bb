"""The house's own statements: each compiles on the migrated schema, and its types are the truth."""

from __future__ import annotations

import asyncpg

import queries
from tests.conftest import Databases
from tools.sqlc_gen_python_asyncpg import verify


async def test_postgresql_agrees_with_every_statement_of_the_house(databases: Databases) -> None:
    conn = await asyncpg.connect(databases.url)
    try:
        assert await verify.differences(conn, queries) == []
    finally:
        await conn.close()
