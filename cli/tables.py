"""The door: how commands print tables, trees and JSON.

Invariant: no word is ever cut, an id least of all: a terminal that is too narrow wraps lines, and where the output goes
to a file or another program every row is one whole line.
"""

from __future__ import annotations

import click
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table

# Wider than any row.
_MEASURED_AT = 10_000


def table(*columns: str) -> Table:
    """An empty one."""
    return Table(*columns, box=None, pad_edge=False)


def print_table(filled: Table, next_page: str = "") -> None:
    """Prints it, "nothing" when it has no row, and how to get the next page."""
    print_whole(filled if filled.row_count else "nothing")
    if next_page:
        click.echo(f"more: --page {next_page}")


def json_text(message: Message) -> str:
    """An answer as JSON, with the names of the protos, as the HTTP gateway has them."""
    return MessageToJson(message, preserving_proto_field_name=True, ensure_ascii=False)


def print_whole(shown: RenderableType) -> None:
    """Prints something as wide as its longest words need, and in full where nobody looks at a screen."""
    console = Console()
    needed = Measurement.get(
        console, console.options.update(max_width=_MEASURED_AT, width=_MEASURED_AT), shown
    )
    width = max(console.width, needed.minimum) if console.is_terminal else needed.maximum
    Console(width=max(width, 1), soft_wrap=False).print(
        shown, highlight=False, crop=False, no_wrap=False
    )
