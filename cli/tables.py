"""The door: how commands print tables, trees, times and JSON.

Invariant: a row is one whole line, and nothing of it is cut, an id least of all, on whatever screen and in a pipe.
"""

from __future__ import annotations

from datetime import UTC
from typing import Final

import click
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table

_WIDER_THAN_ANY: Final = 10_000


def table(*columns: str) -> Table:
    """An empty one."""
    return Table(*columns, box=None, pad_edge=False)


def print_table(filled: Table, next_page: str = "") -> None:
    """Prints it, "nothing" when it has no row, and how to get the next page."""
    print_whole(filled if filled.row_count else "nothing")
    if next_page:
        click.echo(f"more: --page {next_page}")


def at(stamp: Timestamp, timespec: str = "seconds") -> str:
    """A time in UTC; empty when it is unset."""
    if not stamp.seconds:
        return ""
    return stamp.ToDatetime(UTC).isoformat(" ", timespec).removesuffix("+00:00")


def json_text(message: Message) -> str:
    """An answer as JSON, with the names of the protos, as the HTTP gateway has them."""
    return MessageToJson(message, preserving_proto_field_name=True, ensure_ascii=False)


def print_whole(shown: RenderableType) -> None:
    """Prints something as wide as it is; a screen that is narrower wraps the lines itself."""
    options = Console().options.update(width=_WIDER_THAN_ANY, max_width=_WIDER_THAN_ANY)
    width = Measurement.get(Console(), options, shown).maximum
    console = Console(width=max(width, 1))
    with console.capture() as written:
        console.print(shown, highlight=False)
    # What fills the last column up would be a line of its own on a narrow screen.
    click.echo("\n".join(line.rstrip() for line in written.get().splitlines()))
