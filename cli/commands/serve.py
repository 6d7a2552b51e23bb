"""The door: `tollway serve`, one API server. Invariant: on SIGTERM it finishes what it holds, then leaves."""

from __future__ import annotations

import asyncio
import os

import click
import uvloop

from billing.runtime.settings import Settings, read_settings
from cli.compose import keep_clock, open_parts, serving, set_up_process, stop_on_signals


@click.command()
def command() -> None:
    """Serve gRPC and HTTP by the TOLLWAY_ settings, until SIGTERM or Ctrl-C.

    Needs TOLLWAY_DATABASE_URL, TOLLWAY_BUS_URL and TOLLWAY_SECRET_KEY. Several processes may share one port with
    TOLLWAY_SHARE_PORT=true.
    """
    settings = read_settings(os.environ)
    set_up_process(settings)
    uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    stop = stop_on_signals()
    async with (
        open_parts(settings) as parts,
        serving(parts) as servers,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(keep_clock(parts, stop))
        group.create_task(servers.grpc.keep_counts(stop))
        click.echo(
            f"gRPC on {settings.grpc_host}:{servers.grpc.port}, HTTP on {settings.http_host}:{servers.http.port}"
        )
        await stop.wait()
