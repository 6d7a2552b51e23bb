"""Query plugin, types: PostgreSQL -> Python, as asyncpg delivers without extra codecs.

Invariant: a type that is not in the table is refused. The table is the whole knowledge;
verify.py holds it against a live server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tools.sqlc_gen_python_asyncpg.names import class_name
from tools.sqlc_gen_python_asyncpg.request import Column, Enum, Identifier

# A conversion maps the expression of a value that is not None to the converted expression.
Conversion = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class PyType:
    """How a value is annotated, what that needs imported, and how asyncpg's value becomes it."""

    annotation: str
    imports: frozenset[str] = frozenset()
    convert: Conversion | None = None


def _of(annotation: str, *, convert: Conversion | None = None) -> PyType:
    module, dot, _ = annotation.rpartition(".")
    return PyType(annotation, frozenset({module}) if dot else frozenset(), convert)


# PostgreSQL's own short names (pg_type.typname).
SCALARS: Mapping[str, PyType] = {
    "bool": _of("bool"),
    "int2": _of("int"),
    "int4": _of("int"),
    "int8": _of("int"),
    "xid8": _of("int"),
    "float8": _of("float"),
    "numeric": _of("decimal.Decimal"),
    "text": _of("str"),
    "varchar": _of("str"),
    "bpchar": _of("str"),
    "uuid": _of("uuid.UUID"),
    "bytea": _of("bytes"),
    "date": _of("datetime.date"),
    "timestamptz": _of("datetime.datetime"),
    "interval": _of("datetime.timedelta"),
    # No codec is set on the connections: JSON travels as its text, and the caller parses it.
    "json": _of("str"),
    "jsonb": _of("str"),
    # asyncpg reads ipaddress objects and accepts text; text is what logs and protos carry.
    "inet": _of("str", convert=lambda value: f"str({value})"),
    "cidr": _of("str", convert=lambda value: f"str({value})"),
}

# sqlc mixes the SQL standard's spellings into the short ones.
SPELLINGS: Mapping[str, str] = {
    "boolean": "bool",
    "smallint": "int2",
    "smallserial": "int2",
    "serial2": "int2",
    "int": "int4",
    "integer": "int4",
    "serial": "int4",
    "serial4": "int4",
    "bigint": "int8",
    "bigserial": "int8",
    "serial8": "int8",
    "float": "float8",
    "double precision": "float8",
    "decimal": "numeric",
    "string": "text",
    "character varying": "varchar",
    "character": "bpchar",
    "timestamp with time zone": "timestamptz",
}

REMEDIES: Mapping[str, str] = {
    "any": "Cast it in the SQL: (…)::type, @name::type.",
    "anyarray": "Cast it in the SQL: max(…)::type.",
    "anyelement": "Cast it in the SQL: (…)::type.",
    "void": "It says nothing: use :exec.",
    "record": "Name the columns, or sqlc.embed(table).",
    "timestamp": "Use timestamptz: every time is aware and UTC.",
    "float4": "Use float8, or numeric for what is counted.",
    "real": "Use float8, or numeric for what is counted.",
}
DEFAULT_REMEDY = (
    "Cast it in the SQL to a known type, or add the type to "
    "tools/sqlc_gen_python_asyncpg/pg_types.py together with a round trip test."
)


def short_name(identifier: Identifier) -> str:
    """`pg_catalog.int8`, `bigint` and `int8` are one type: int8."""
    name = identifier.name.removeprefix("pg_catalog.").removesuffix("[]")
    return SPELLINGS.get(name, name)


def lookup(column: Column, enums: Mapping[Identifier, Enum]) -> PyType | None:
    """The type of the column's value, or of its elements when it is an array. None: unknown."""
    name = short_name(column.type)
    if column.type.schema in {"", "pg_catalog"} and name in SCALARS:
        return SCALARS[name]
    if column.type in enums:
        return enum_type(enums[column.type])
    return None


def enum_type(enum: Enum) -> PyType:
    """asyncpg hands out labels as text: they become members, so no label can be misspelled."""
    annotation = f"models.{class_name(enum.name.name)}"
    return PyType(annotation, frozenset({"models"}), lambda value: f"{annotation}({value})")


def remedy(column: Column) -> str:
    """What the author of the query can do about an unknown type."""
    return REMEDIES.get(short_name(column.type), DEFAULT_REMEDY)
