"""Databases for tests: made in tens of milliseconds, dropped whatever still holds them open."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import asyncpg

NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


async def create_database(admin_url: str, name: str, template: str | None = None) -> str:
    """Make database `name`, empty or as a copy of `template`; returns its URL.

    Nobody may be connected to the template while it is copied.
    """
    source = f" TEMPLATE {_checked(template)}" if template else ""
    # Copying files takes 8 to 20 ms, where the default, through the log, takes 90 to 120.
    await _execute(admin_url, f"CREATE DATABASE {_checked(name)}{source} STRATEGY FILE_COPY")
    return url_of(admin_url, name)


async def drop_database(admin_url: str, name: str) -> None:
    """Drop database `name` if it exists, and the connections to it."""
    await _execute(admin_url, f"DROP DATABASE IF EXISTS {_checked(name)} WITH (FORCE)")


def url_of(admin_url: str, name: str) -> str:
    """The URL of database `name` on the same server, as the same role."""
    return urlsplit(admin_url)._replace(path=f"/{_checked(name)}").geturl()


async def _execute(admin_url: str, statement: str) -> None:
    connection = await asyncpg.connect(admin_url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"A test database is named in lower case, digits and _, not {name!r}.")
    return name
