"""The door: `tollway migrate`. Invariant: run twice, the second time changes nothing."""

from __future__ import annotations

import os

import click
import uvloop

from billing.runtime.settings import read_settings
from billing.services.migrations import migrate


@click.command()
def command() -> None:
    """Bring the schema of TOLLWAY_DATABASE_URL up to date, as its owner; forward only, all or nothing."""
    settings = read_settings(os.environ)
    settings.require("database_url")
    applied = uvloop.run(migrate(settings.database_url))
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("the schema is up to date")
