"""Query plugin, step 1 of 3: read what sqlc says (the GenerateRequest), once, and freeze it.

Only the fields that the plugin uses are read; sqlc may add others. The shape is sqlc's
protos/plugin/codegen.proto in its JSON form.

Invariant: after `parse` nobody looks at raw JSON again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Raw = Mapping[str, Any]

# Schemas whose tables and types are PostgreSQL's own.
SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema", "pg_temp"})
DEFAULT_SCHEMA = "public"


@dataclass(frozen=True, slots=True)
class Identifier:
    """A table or type name; an empty schema means the default one."""

    schema: str
    name: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, of a result, or the typed side of a parameter."""

    name: str
    original_name: str
    not_null: bool
    is_array: bool
    array_dims: int
    is_named_param: bool
    is_func_call: bool
    type: Identifier
    table: Identifier | None
    embed_table: Identifier | None
    comment: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """`$number` of a query."""

    number: int
    column: Column


@dataclass(frozen=True, slots=True)
class Query:
    """One named statement of a query file, stars already expanded by sqlc."""

    name: str
    cmd: str
    text: str
    filename: str
    comments: tuple[str, ...]
    columns: tuple[Column, ...]
    params: tuple[Parameter, ...]
    insert_into_table: Identifier | None


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view of the schema."""

    name: Identifier
    comment: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum type of the schema, labels in their order."""

    name: Identifier
    comment: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that the plugin needs of one run."""

    tables: Mapping[Identifier, Table]
    enums: Mapping[Identifier, Enum]
    queries: tuple[Query, ...]


def parse(raw: Raw) -> Request:
    """Read sqlc's JSON. System schemas are left out: no query of ours has a system row type."""
    tables: dict[Identifier, Table] = {}
    enums: dict[Identifier, Enum] = {}
    for schema in raw["catalog"].get("schemas") or ():
        if schema["name"] in SYSTEM_SCHEMAS:
            continue
        for entry in schema.get("tables") or ():
            table = _table(schema["name"], entry)
            tables[table.name] = table
        for entry in schema.get("enums") or ():
            enum = _enum(schema["name"], entry)
            enums[enum.name] = enum
    queries = tuple(_query(entry) for entry in raw.get("queries") or ())
    return Request(tables=tables, enums=enums, queries=queries)


def _identifier(raw: Raw) -> Identifier:
    """Normalized: sqlc writes the default schema sometimes as "" and sometimes as "public"."""
    schema = raw.get("schema") or ""
    return Identifier("" if schema == DEFAULT_SCHEMA else schema, raw.get("name") or "")


def _optional_identifier(raw: Raw | None) -> Identifier | None:
    if raw is None or not raw.get("name"):
        return None
    return _identifier(raw)


def _column(raw: Raw) -> Column:
    return Column(
        name=raw.get("name") or "",
        original_name=raw.get("original_name") or "",
        not_null=bool(raw.get("not_null")),
        is_array=bool(raw.get("is_array")),
        array_dims=int(raw.get("array_dims") or 0),
        is_named_param=bool(raw.get("is_named_param")),
        is_func_call=bool(raw.get("is_func_call")),
        type=_identifier(raw.get("type") or {}),
        table=_optional_identifier(raw.get("table")),
        embed_table=_optional_identifier(raw.get("embed_table")),
        comment=raw.get("comment") or "",
    )


def _table(schema: str, raw: Raw) -> Table:
    return Table(
        name=_identifier({"schema": schema, "name": raw["rel"]["name"]}),
        comment=raw.get("comment") or "",
        columns=tuple(_column(entry) for entry in raw.get("columns") or ()),
    )


def _enum(schema: str, raw: Raw) -> Enum:
    return Enum(
        name=_identifier({"schema": schema, "name": raw["name"]}),
        comment=raw.get("comment") or "",
        labels=tuple(raw.get("vals") or ()),
    )


def _query(raw: Raw) -> Query:
    params = sorted(raw.get("params") or (), key=lambda entry: entry["number"])
    return Query(
        name=raw["name"],
        cmd=raw["cmd"],
        text=raw["text"],
        filename=raw["filename"],
        comments=tuple(raw.get("comments") or ()),
        columns=tuple(_column(entry) for entry in raw.get("columns") or ()),
        params=tuple(Parameter(entry["number"], _column(entry["column"])) for entry in params),
        insert_into_table=_optional_identifier(raw.get("insert_into_table")),
    )
