"""The door: `tollway up`. Invariant: it prints how to go on, and leaves nothing behind but its data folder."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click
import uvloop

from billing.runtime.settings import Settings, read_settings
from cli.compose import set_up_process, stop_on_signals
from cli.up import Address, UpOptions, running, write_private


@click.command()
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), default=Path("tollway-data"),
              show_default=True, help="Where the data is kept between runs.")  # fmt: skip
@click.option("--fresh", is_flag=True, help="Delete the folder's data first.")
@click.option(
    "--grpc-port",
    type=click.IntRange(0, 65535),
    default=7070,
    show_default=True,
    help="0 chooses one.",
)
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    default=7071,
    show_default=True,
    help="0 chooses one.",
)
@click.option(
    "--bus",
    "bus_url",
    default="",
    help="Another bus than the embedded NATS: nats://, kafka://, noop://.",
)
@click.option("--ready-file", type=click.Path(dir_okay=False, path_type=Path),
              help="Written when all serves: JSON with addresses and the operator key, mode 0600.")  # fmt: skip
def command(
    data_dir: Path,
    fresh: bool,
    grpc_port: int,
    http_port: int,
    bus_url: str,
    ready_file: Path | None,
) -> None:
    """Run everything here: PostgreSQL, NATS, the server and the workers, until SIGTERM or Ctrl-C.

    The data stays in the folder; the next `tollway up` on it goes on where this one stopped.
    """
    settings = read_settings(os.environ)
    set_up_process(settings)
    options = UpOptions(data_dir, fresh, grpc_port, http_port, bus_url)
    uvloop.run(_up(options, settings, ready_file))


async def _up(options: UpOptions, settings: Settings, ready_file: Path | None) -> None:
    stop = stop_on_signals()
    async with running(options, settings, stop) as address:
        if ready_file is not None:
            write_private(ready_file, address.to_json())
        _tell(address)
        await stop.wait()
        click.echo("stopping")
    if ready_file is not None:
        await asyncio.to_thread(ready_file.unlink, missing_ok=True)


def _tell(address: Address) -> None:
    click.echo(
        f"""Tollway is up.

  gRPC      {address.grpc}
  HTTP      {address.http}/healthz /readyz /metrics
  workers   {address.workers_http}/metrics
  operator  {address.operator_key}

Make a tenant and a key for it, then follow docs/start.md:

  export TOLLWAY_ADDRESS={address.grpc} TOLLWAY_API_KEY={address.operator_key}
  {sys.argv[0]} keys create --new-tenant Acme --test

Stop with Ctrl-C."""
    )
