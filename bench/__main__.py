"""`python -m bench [CASE…] [--json FILE]`: measures, prints one table, and writes bench/RESULTS.md."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.table import Table

from bench.environment import Result, environment
from cli.compose import tune_garbage_collector

CASES = (
    "usage_ingest",
    "rating_million",
    "usage_unary",
    "usage_growth",
    "dispatch",
    "replay",
    "replay_live",
    "route",
    "unary_read",
    "cycles",
    "cycles_growth",
    "webhooks",
    "isolation",
    "restart",
    "latency",
    "outage",
    "archive",
    "held_snapshot",
)
RESULTS = Path(__file__).with_name("RESULTS.md")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(CASES))
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures here.",
)
@click.option("--scale", default=1.0, show_default=True, help="How much to do: 2 is twice as much.")
def main(names: tuple[str, ...], json_file: Path | None, scale: float) -> None:
    """Measure CASES (all by default) on the embedded servers."""
    tune_garbage_collector()  # as the processes of the product do
    results: list[Result] = []
    for name in names or CASES:
        click.echo(f"measuring {name} …", err=True)
        results += uvloop.run(_run(name, scale))
    Console().print(_table(results))
    if json_file is not None:
        json_file.write_text(json.dumps(_document(results), indent=2) + "\n")
    if not names:
        RESULTS.write_text(_page(results))


async def _run(name: str, scale: float) -> list[Result]:
    case = importlib.import_module(f"bench.case_{name}")
    async with environment(scale) as env:
        measured: list[Result] = await case.run(env)
        # What the case left running must not run into the next one.
        await asyncio.sleep(0)
        return measured


def _machine() -> str:
    system = f"{platform.machine()}, {platform.system()} {platform.release()}"
    return f"{os.cpu_count()} cores, {system}, Python {platform.python_version()}"


def _document(results: Sequence[Result]) -> dict[str, object]:
    keys = ("case", "figure", "unit", "limit", "ratio")
    return {
        "machine": _machine(),
        "cases": [{key: getattr(result, key) for key in keys} for result in results],
    }


def _cells(result: Result) -> tuple[str, str, str, str, str, str]:
    limit = f"{result.limit:,.0f}" if result.limit is not None else "-"
    ratio = f"{result.ratio:.2f}" if result.ratio is not None else "-"
    digits = 0 if result.figure >= _WHOLE_FROM else 1
    return result.case, f"{result.figure:,.{digits}f}", result.unit, limit, ratio, result.note


_WHOLE_FROM = 100  # smaller figures have a digit behind the point
_HEADINGS = ("case", "figure", "unit", "limit", "ratio", "what the limit is")


def _table(results: Sequence[Result]) -> Table:
    table = Table(*_HEADINGS, box=None)
    for result in results:
        table.add_row(*_cells(result))
    return table


def _page(results: Sequence[Result]) -> str:
    rows = [_HEADINGS, tuple("---" for _ in _HEADINGS), *map(_cells, results)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    head = f"# Measured\n\nWritten by `make bench` on {_machine()}. Machines are noisy: read the ratios.\n\n"
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
