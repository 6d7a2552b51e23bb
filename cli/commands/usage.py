"""The door: `tollway usage`, and its import. Invariant: a row is recorded once, however often its file is sent."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from cli.client import Connection, channel_to, connection_options, run
from cli.commands import usage_records
from cli.usage_import import ImportOptions, ImportSummary, import_usage
from cli.usage_import.options import FIELDS, ISO


@click.group()
def command() -> None:
    """Bring usage in, look at it, correct it."""


for _one in usage_records.COMMANDS:
    command.add_command(_one)


class RowsRefused(click.ClickException):
    """Some rows were not recorded; those that were stay so, and importing again counts none twice."""


def _pairs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for value in values:
        name, joint, text = value.partition("=")
        if not joint or not name or name in pairs:
            raise click.BadParameter(f"{value!r}: write NAME=VALUE, each name once.")
        pairs[name] = text
    return pairs


@command.command("import")
@connection_options
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--map",
    "columns",
    multiple=True,
    callback=_pairs,
    metavar="FIELD=COLUMN[+COLUMN…]",
    help=f"Where a field comes from: {', '.join(FIELDS)}. Several columns are joined by '+'.",
)
@click.option(
    "--set",
    "constants",
    multiple=True,
    callback=_pairs,
    metavar="FIELD=VALUE",
    help="A field that is the same for all rows.",
)
@click.option(
    "--property",
    "properties",
    multiple=True,
    callback=_pairs,
    metavar="NAME=COLUMN",
    help="A property of the record.",
)
@click.option(
    "--where",
    multiple=True,
    callback=_pairs,
    metavar="COLUMN=TEXT",
    help="Only rows whose column has exactly this text.",
)
@click.option(
    "--timestamp-format",
    default=ISO,
    show_default=True,
    help="iso, unix, unix_ms, or as in strptime: '%Y-%m-%d %H:%M'.",
)
@click.option(
    "--time-zone",
    default="UTC",
    show_default=True,
    help="The zone of timestamps that have no offset.",
)
@click.option(
    "--allow-backfill", is_flag=True, help="Take usage older than the backdating limit of 35 days."
)
@click.option(
    "--backfill",
    default="",
    help="Under this backfill job, made if there is none of this name: for usage older than 35 days.",
)
@click.option(
    "--rejects",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where refused rows go, with the reason. [default: FILE.rejects.csv]",
)
def import_(connection: Connection, file: Path, rejects: Path | None, **chosen: object) -> None:
    """Record the rows of FILE: CSV, TSV or JSON lines, also as the one file in a .zip.

    The key of a row must be its own for ever: importing the file again, or after an interruption, counts nothing twice.
    Ends with status 1 when a row was refused.
    """
    options = ImportOptions(
        file=file,
        rejects=rejects or file.with_name(f"{file.name}.rejects.csv"),
        **chosen,  # type: ignore[arg-type] # click gives each option the type that the callback made
    )
    console = Console(stderr=True)

    async def work() -> ImportSummary:
        async with channel_to(connection) as channel:
            return await import_usage(channel, connection.metadata, options, console)

    summary = run(work())
    for line in told(summary):
        click.echo(line)
    if refused := summary.conflict + summary.rejected:
        raise RowsRefused(
            f"{refused:,} of {summary.sent:,} rows were not recorded; correct them and import the file again."
        )


def told(summary: ImportSummary) -> list[str]:
    """The summary, for people."""
    speed = summary.sent / summary.seconds if summary.seconds else 0.0
    lines = [
        f"{summary.accepted:,} accepted, {summary.duplicate:,} duplicate, {summary.conflict:,} in conflict,"
        f" {summary.rejected:,} rejected ({summary.seconds:.1f} s, {speed:,.0f} rows/s)"
    ]
    if summary.skipped:
        lines.append(f"{summary.skipped:,} rows were left out by --where")
    if summary.rejects is not None:
        lines.append(f"The rows that were not recorded, and why: {summary.rejects}")
    return lines
