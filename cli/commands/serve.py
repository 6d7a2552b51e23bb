"""The door: `tollway serve`, API servers. Invariant: on SIGTERM each finishes what it holds, then leaves."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack

import click
import uvloop

from billing.runtime.settings import Settings, read_settings
from cli.compose import (
    figures,
    keep_clock,
    open_parts,
    serving,
    set_up_process,
    stop_on_signals,
    stop_when_input_closes,
)
from cli.processes import READY_LINE, keep_processes


@click.command()
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="How many share the ports; one uses one core.",
)
@click.option(
    "--figures-port",
    type=click.IntRange(0, 65535),
    help="Where the first process shows its own /metrics and /readyz; the others follow. 0 chooses ports.",
)
@click.option("--until-stdin-closes", is_flag=True, help="Leave also when standard input closes.")
def command(processes: int, figures_port: int | None, until_stdin_closes: bool) -> None:
    """Serve gRPC and HTTP by the TOLLWAY_ settings, until SIGTERM or Ctrl-C.

    Needs TOLLWAY_DATABASE_URL, TOLLWAY_BUS_URL and TOLLWAY_SECRET_KEY. With several processes the kernel shares out
    connections (SO_REUSEPORT), and what the settings limit in a process holds in each. Processes that are started one
    by one share a port with TOLLWAY_SHARE_PORT=true.
    """
    settings = read_settings(os.environ)
    set_up_process(settings)
    if processes == 1:
        uvloop.run(_serve(settings, figures_port, until_stdin_closes))
    else:
        uvloop.run(_keep(settings, processes, figures_port or 0))


async def _serve(settings: Settings, figures_port: int | None, until_stdin_closes: bool) -> None:
    stop = stop_on_signals()
    if until_stdin_closes:
        stop_when_input_closes(stop)
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(open_parts(settings))
        servers = await stack.enter_async_context(serving(parts))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        group.create_task(keep_clock(parts, stop))
        group.create_task(servers.grpc.keep_counts(stop))
        if figures_port is not None:
            own = await stack.enter_async_context(figures(parts, figures_port))
            click.echo(f"{READY_LINE} http://{settings.http_host}:{own.port}")
        click.echo(
            f"gRPC on {settings.grpc_host}:{servers.grpc.port}, HTTP on {settings.http_host}:{servers.http.port}"
        )
        await stop.wait()


async def _keep(settings: Settings, count: int, figures_port: int) -> None:
    stop = stop_on_signals()
    async with keep_processes(settings, count, figures_port, stop) as ports:
        click.echo(
            f"gRPC on {settings.grpc_host}:{ports.grpc}, HTTP on {settings.http_host}:{ports.http},"
            f" by {count} processes with figures at {', '.join(ports.figures)}"
        )
        await stop.wait()
    click.echo("stopped")
