"""The door: how commands print tables, trees and JSON.

Invariant: a row is one whole line, and nothing of it is cut, an id least of all, on whatever screen and in a pipe.
"""

from __future__ import annotations

from typing import Final

import click
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
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


def json_text(message: Message) -> str:
    """An answer as JSON, with the names of the protos, as the HTTP gateway has them."""
    return MessageToJson(message, preserving_proto_field_name=True, ensure_ascii=False)


def print_whole(shown: RenderableType) -> None:
    """Prints something as wide as it is; a screen that is narrower wraps the lines itself."""
    options = Console().options.update(width=_WIDER_THAN_ANY, max_width=_WIDER_THAN_ANY)
    width = Measurement.get(Console(), options, shown).maximum
    Console(width=max(width, 1)).print(shown, highlight=False)
