"""The door: `tollway demo`. Invariant: exit status 0 only if everything that it promises held."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import click
import grpc.aio
import uvloop
from rich.console import Console

from billing.runtime.settings import Settings, read_settings
from cli.compose import set_up_process
from cli.demo import flights
from cli.demo.airline import DemoFailed, read_airlines
from cli.demo.recompute import expected
from cli.demo.story import MONTH, YEAR, Input, Outcome, play
from cli.demo.teller import Teller, dollars
from cli.up import Address, UpOptions, running

WIDTH_MIN = 120


@click.command()
@click.option(
    "--bus", "bus_url", default="", help="Another bus than the embedded NATS: nats://, kafka://."
)
@click.option("--flights", "flights_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The archive, where the package index cannot be reached.")  # fmt: skip
def command(bus_url: str, flights_file: Path | None) -> None:
    """Watch one month of real usage become money: import, rating, invoices, webhooks, a replay, a trail.

    Everything runs here, in a new folder, and is stopped at the end; the folder stays, to go on by hand.
    """
    settings = read_settings(os.environ)
    set_up_process(
        replace(settings, log_level="WARNING") if settings.log_level == "INFO" else settings
    )
    console = Console(width=max(WIDTH_MIN, Console().width))
    sys.exit(uvloop.run(_demo(console, settings, bus_url, flights_file)))


async def _demo(
    console: Console, settings: Settings, bus_url: str, flights_file: Path | None
) -> int:
    teller = Teller(console)
    folder = Path(tempfile.mkdtemp(prefix="tollway-demo-"))
    data = folder / "data"
    try:
        teller.tell("input", "departures from New York, January 2013")
        archive = flights_file or await flights.fetch()
        rows, airlines = await asyncio.to_thread(flights.unpack, archive, folder)
        given = Input(
            rows, read_airlines(airlines), await asyncio.to_thread(expected, rows, YEAR, MONTH)
        )
        options = UpOptions(data, grpc_port=0, http_port=0, bus_url=bus_url)
        async with running(options, settings, asyncio.Event()) as address:
            teller.tell("up", f"PostgreSQL, {bus_url or 'NATS'}, server and workers, in {data}")
            async with grpc.aio.insecure_channel(address.grpc) as channel:
                outcome = await play(teller, channel, address.grpc, address.operator_key, given)
    except (DemoFailed, flights.InputMissing, grpc.aio.AioRpcError) as error:
        console.print(f"[bold red]demo failed:[/bold red] {error}", highlight=False)
        return 1
    _tell_how_to_go_on(console, data, address, outcome)
    console.print(
        f"demo ok: {outcome.records} records, {outcome.invoices} invoices, total {dollars(outcome.totals.billed)},"
        f" recomputed {dollars(outcome.totals.recomputed)}, {outcome.verified} webhooks verified,"
        f" {teller.seconds:.1f} s",
        highlight=False,
    )
    return 0 if outcome.totals.billed == outcome.totals.recomputed else 1


def _tell_how_to_go_on(console: Console, data: Path, address: Address, outcome: Outcome) -> None:
    call = 'grpcurl -plaintext -H "authorization: Bearer $KEY"'
    lines = (
        "To go on by hand:\n",
        f".venv/bin/tollway up --data-dir {data}\n",
        f"export ADDR=127.0.0.1:7070 KEY={outcome.airline.key} OPERATOR_KEY={address.operator_key}",
        f"export FRESH_KEY={outcome.fresh_key}  # of a tenant with nothing in it yet\n",
        "grpcurl -plaintext $ADDR list  # `.venv/bin/python -m tools.grpcurl` fetches it, and says where it is",
        f"""{call} -d '{{"external_id": "UA"}}' $ADDR tollway.customer.v1.CustomerService/GetCustomer""",
        f"{call} $ADDR tollway.invoice.v1.InvoiceService/ListInvoices",
        f"TOLLWAY_API_KEY=$KEY .venv/bin/tollway invoices explain INV-{outcome.invoices:06} 1\n",
    )
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True)
