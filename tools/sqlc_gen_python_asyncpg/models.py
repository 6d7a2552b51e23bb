"""Query plugin, step 3 of 3: write models.py, connection.py and __init__.py.

Invariant: models.py holds what the queries use and nothing else, so an unused table costs nothing
and a dropped one is an error where it was used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tools.sqlc_gen_python_asyncpg import layout
from tools.sqlc_gen_python_asyncpg.build import annotation
from tools.sqlc_gen_python_asyncpg.names import class_name, snake
from tools.sqlc_gen_python_asyncpg.refusal import Refusal
from tools.sqlc_gen_python_asyncpg.request import Enum, Request, Table
from tools.sqlc_gen_python_asyncpg.shapes import Bare, Row, Shape, Value, table_values, used_tables

CONNECTION: Final = (
    layout.HEADER
    + '''
"""What the functions ask of a connection: asyncpg's Connection and a pool's proxy have it.

A pool is left out on purpose (it has no is_in_transaction): each call would take another
connection, and with it lose the transaction and the tenant.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import typing

__all__ = [
    "ConnectionLike",
    "affected_rows",
    "row_class",
]

T = typing.TypeVar("T")


@typing.dataclass_transform(frozen_default=True)
def row_class(cls: type[T]) -> type[T]:
    """A dataclass that type checkers hold to be frozen; freezing it in fact would make a row cost five times more."""
    return dataclasses.dataclass(slots=True, unsafe_hash=True)(cls)


class ConnectionLike(typing.Protocol):
    """asyncpg.Connection, asyncpg.pool.PoolConnectionProxy, or what wraps them."""

    async def execute(self, query: str, /, *args: typing.Any) -> str:
        """Run the statement; the command tag."""

    async def fetch(self, query: str, /, *args: typing.Any) -> list[typing.Any]:
        """All rows."""

    async def fetchrow(self, query: str, /, *args: typing.Any) -> typing.Any:
        """The first row, or None."""

    async def copy_records_to_table(
        self,
        table_name: str,
        /,
        *,
        records: collections.abc.Iterable[collections.abc.Sequence[typing.Any]],
        columns: collections.abc.Sequence[str] | None = None,
        schema_name: str | None = None,
    ) -> str:
        """COPY … FROM STDIN in the binary format; the command tag."""

    def is_in_transaction(self) -> bool:
        """Whether a transaction is open."""


def affected_rows(status: str) -> int:
    """The count in a command tag: "INSERT 0 5" -> 5."""
    return int(status.rpartition(" ")[2])
'''
)


def models_module(shapes: Sequence[Shape], request: Request) -> str:
    """The text of models.py: the enums first, then one dataclass per table, by name."""
    tables = {name: (table, table_values(table, request)) for name, table in _tables(shapes)}
    values = [value for _, fields in tables.values() for value in fields]
    enums = _used_enums(
        [*values, *(value for shape in shapes for value in _values(shape))], request
    )
    modules = {module for value in values for module in value.type.imports} - {"models"}
    if enums:
        modules.add("enum")
    clash = sorted(enums.keys() & tables.keys())
    if clash:
        raise Refusal("models.py", f"an enum and a table are both {clash[0]}.", "Rename one.")
    blocks = [_enum_class(name, enum) for name, enum in sorted(enums.items())]
    blocks += [_table_class(name, *tables[name]) for name in sorted(tables)]
    imports = [*(f"import {name}" for name in sorted(modules)), ""] if modules else []
    if tables:
        imports += ["from .connection import row_class", ""]
    lines = [
        layout.HEADER,
        '"""The rows of the tables and the enums that the statements use."""',
        "",
        "from __future__ import annotations",
        "",
        *imports,
        *layout.exports(sorted([*enums, *tables])),
    ]
    return "\n".join(lines) + "".join(f"\n\n\n{block}" for block in blocks) + "\n"


def init_module(modules: Iterable[str]) -> str:
    """The text of __init__.py: `from queries import invoices` and `queries.invoices` both work."""
    names = sorted(modules)
    return "\n".join(
        [
            layout.HEADER,
            '"""Every statement of queries/, one module per file and one function per statement."""',
            "",
            "from . import (",
            *(f"    {name}," for name in sorted([*names, "models"])),
            ")",
            "from .connection import ConnectionLike",
            "",
            *layout.exports(sorted(["ConnectionLike", *names, "models"])),
            "",
        ]
    )


def _tables(shapes: Sequence[Shape]) -> Iterable[tuple[str, Table]]:
    return used_tables(shapes).items()


def _values(shape: Shape) -> Iterable[Value]:
    yield from shape.params
    match shape.result:
        case Bare(value=value):
            yield value
        case Row(fields=fields):
            yield from (field for field in fields if isinstance(field, Value))
        case _:
            return


def _used_enums(values: Iterable[Value], request: Request) -> Mapping[str, Enum]:
    used = {value.type.annotation for value in values}
    enums: dict[str, Enum] = {}
    for enum in request.enums.values():
        name = class_name(enum.name.name)
        if f"models.{name}" in used and enums.setdefault(name, enum) != enum:
            raise Refusal("models.py", f"two enums would both be {name}.", "Rename one.")
    return enums


def _enum_class(name: str, enum: Enum) -> str:
    members: dict[str, str] = {}
    for label in enum.labels:
        member = snake(label).upper()
        if not member or member[0].isdigit():
            member = f"N{member}"
        if member in members:
            what = f"labels {members[member]!r} and {label!r} would both be {member}."
            raise Refusal(f"enum {enum.name.name}", what, "Rename one.")
        members[member] = label
    doc = [enum.comment] if enum.comment else [f"The labels of the enum {enum.name.name}."]
    return "\n".join(
        [
            f"class {name}(enum.StrEnum):",
            *layout.docstring(doc),
            "",
            *(f"    {member} = {_quoted(label)}" for member, label in members.items()),
        ]
    )


def _table_class(name: str, table: Table, values: Sequence[Value]) -> str:
    doc = table.comment.splitlines() or [f"One row of {table.name.name}."]
    lines = [
        "@row_class",
        f"class {name}:",
        *layout.docstring(doc),
        "",
    ]
    for column, value in zip(table.columns, values, strict=True):
        lines += [f"    # {line}" for line in column.comment.splitlines()]
        lines.append(f"    {value.name}: {annotation(value, 'list').replace('models.', '')}")
    return "\n".join(lines)


def _quoted(label: str) -> str:
    escaped = label.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
