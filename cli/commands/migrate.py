"""The door: `tollway migrate`. Invariant: run twice, the second time changes nothing."""

from __future__ import annotations

import os

import click
import uvloop

from billing.runtime.bus.base import BusError, BusSettings
from billing.runtime.bus.connect import connect_bus
from billing.runtime.db import DatabaseSettings, Role, connect
from billing.runtime.settings import Settings, read_settings
from billing.services.migrations import migrate
from billing.services.shard_change import SHARDS_MAX, SHARDS_MIN, NotDrained, change_shards


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Bring the schema of TOLLWAY_DATABASE_URL up to date, as its owner; forward only, all or nothing."""
    if context.invoked_subcommand is not None:
        return
    settings = read_settings(os.environ)
    settings.require("database_url")
    applied = uvloop.run(migrate(settings.database_url))
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("the schema is up to date")


@command.command()
@click.argument("count", type=click.IntRange(SHARDS_MIN, SHARDS_MAX))
def shards(count: int) -> None:
    """Change the number of shards and partitions to COUNT, while everything stands still.

    Stop `tollway serve`, let the workers finish, stop `tollway work`, run this, and start both again. While anything is
    still on its way nothing is changed, and what it is is told.
    """
    settings = read_settings(os.environ)
    settings.require("database_url", "bus_url")
    try:
        before = uvloop.run(_change(settings, count))
    except (NotDrained, BusError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"{before} shards became {count}" if before != count else f"there are {count} shards"
    )


async def _change(settings: Settings, count: int) -> int:
    bus = await connect_bus(settings.bus_url, BusSettings())
    try:
        worker = await connect(settings.database_url, Role.WORKER, DatabaseSettings())
        try:
            return await change_shards(worker, bus, count)
        finally:
            await worker.close()
    finally:
        await bus.close()
