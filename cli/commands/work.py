"""The door: `tollway work`, the workers of a process. Invariant: it ends when told to, or when its parent is gone."""

from __future__ import annotations

import asyncio
import os
import resource

import click
import uvloop

from billing.runtime.settings import Settings, read_settings
from cli.compose import (
    http_only,
    keep_clock,
    open_parts,
    set_up_process,
    stop_on_signals,
    stop_when_input_closes,
)
from cli.up import READY_LINE
from cli.workers import ROLES, run_workers


@click.command()
@click.argument("roles", nargs=-1, required=True, type=click.Choice(["all", *ROLES]))
@click.option("--until-stdin-closes", is_flag=True, help="Leave also when standard input closes.")
def command(roles: tuple[str, ...], until_stdin_closes: bool) -> None:
    """Run the workers of ROLES by the TOLLWAY_ settings, until SIGTERM or Ctrl-C; `all` for every role.

    Several processes may run the same role: shards are shared out between them by leases.
    """
    settings = read_settings(os.environ)
    set_up_process(settings)
    _allow_many_sockets()
    chosen = list(ROLES) if "all" in roles else list(dict.fromkeys(roles))
    uvloop.run(_work(settings, chosen, until_stdin_closes))


async def _work(settings: Settings, roles: list[str], until_stdin_closes: bool) -> None:
    stop = stop_on_signals()
    if until_stdin_closes:
        stop_when_input_closes(stop)
    async with (
        open_parts(settings) as parts,
        http_only(parts) as http,
        asyncio.TaskGroup() as group,
    ):
        ready = f"{READY_LINE} http://{settings.http_host}:{http.port}"
        group.create_task(keep_clock(parts, stop))
        group.create_task(run_workers(parts, roles, stop, lambda: click.echo(ready)))


def _allow_many_sockets() -> None:
    """Webhooks may hold thousands of connections: as many files as this user may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
