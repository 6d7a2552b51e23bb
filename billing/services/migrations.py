"""Every path's ground: the schema, forward only.

Invariant: all migrations that a database lacks are applied in one transaction or not at all, by one migrator at a time;
a migration that was applied is never changed. A database that is ahead of this code is left as it is.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import re
from dataclasses import dataclass
from typing import Final

import asyncpg
import queries.schema_migrations

_NAME: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


class MigrationChanged(Exception):
    """A migration that this database has was changed afterwards; restore the file and write a new one instead."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of queries/migrations."""

    version: int
    name: str
    statements: str

    @property
    def checksum(self) -> bytes:
        """Tells whether the file is still what was applied."""
        return hashlib.sha256(self.statements.encode()).digest()


def migrations() -> list[Migration]:
    """All migrations that this code brings, in order."""
    folder = importlib.resources.files("tollway_migrations")
    files = [file for file in folder.iterdir() if _NAME.fullmatch(file.name)]
    return [
        Migration(int(file.name[:4]), file.name, file.read_text("utf-8"))
        for file in sorted(files, key=lambda file: file.name)
    ]


async def pending(connection: asyncpg.Connection[asyncpg.Record]) -> list[Migration]:
    """The migrations that the database lacks, in order. Raises MigrationChanged."""
    applied = {
        row.version: row for row in await queries.schema_migrations.list_migrations(connection)
    }
    lacking = []
    for migration in migrations():
        row = applied.get(migration.version)
        if row is None:
            lacking.append(migration)
        elif row.checksum != migration.checksum:
            raise MigrationChanged(f"{migration.name}: {MigrationChanged.__doc__}")
    return lacking


async def migrate(database_url: str) -> list[str]:
    """Brings the database at `database_url` up to date, as its owner; returns the names of what was applied."""
    connection = await asyncpg.connect(database_url, server_settings={"timezone": "UTC"})
    try:
        async with connection.transaction():
            await queries.schema_migrations.lock_migrations(connection)
            first = migrations()[0]
            await connection.execute(first.statements)
            lacking = await pending(connection)
            for migration in lacking:
                if migration.version != first.version:
                    await connection.execute(migration.statements)
                await queries.schema_migrations.insert_migration(
                    connection,
                    version=migration.version,
                    name=migration.name,
                    checksum=migration.checksum,
                )
        return [migration.name for migration in lacking]
    finally:
        await connection.close()
