"""Query plugin, the proof: PostgreSQL itself is asked whether the generated code tells the truth.

sqlc has no database: it reads SQL and infers. This module prepares every generated statement on a
real one, with the schema in place, and compares what PostgreSQL says about each parameter, each
column and each table with what the Python code says.

Invariant: an empty list of differences means that every statement compiles on this schema and
that every type the code promises is the type that the driver delivers.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import pydoc
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tools.sqlc_gen_python_asyncpg import layout, pg_types
from tools.sqlc_gen_python_asyncpg.names import class_name, model_name, value_name

# What the differences call the place of a table's class.
MODELS = "models"

COLUMNS = """
SELECT c.relname, a.attname, a.attnotnull
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
  AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.relname, a.attnum
"""


@dataclass(frozen=True, slots=True)
class Statement:
    """One generated function and its SQL."""

    name: str
    sql: str
    params: Sequence[Any]
    columns: Sequence[Any]


async def differences(conn: Any, package: types.ModuleType) -> list[str]:
    """Every place where the generated package and the database of `conn` disagree.

    `conn` is an asyncpg connection on a database with all migrations. Empty: they agree.
    """
    found: list[str] = []
    for statement in statements(package):
        try:
            prepared = await conn.prepare(statement.sql)
        except Exception as error:  # whatever PostgreSQL refuses is a finding
            found.append(f"{statement.name}: does not prepare: {error}")
            continue
        found += _compare(statement, "parameter", statement.params, prepared.get_parameters())
        attributes = [attribute.type for attribute in prepared.get_attributes()]
        if statement.columns:
            found += _compare(statement, "column", statement.columns, attributes)
    found += await _table_differences(conn, package)
    return found


def statements(package: types.ModuleType) -> Iterator[Statement]:
    """All functions of the package that carry SQL, in the order of their modules and names."""
    for module in (getattr(package, name) for name in package.__all__):
        if not inspect.ismodule(module):
            continue
        for name in module.__all__:
            function = getattr(module, name)
            sql = getattr(module, layout.constant_name(name), None)
            if inspect.iscoroutinefunction(function) and isinstance(sql, str):
                yield _statement(f"{module.__name__}.{name}", sql, function)


def _statement(name: str, sql: str, function: Any) -> Statement:
    hints = typing.get_type_hints(function)
    result = hints.pop("return")
    del hints["conn"]
    counted = ":execrows" in sql.split("\n", 1)[0]
    columns = [] if counted else list(_flat(_row_of(result)))
    return Statement(name, sql, list(hints.values()), columns)


def _row_of(result: Any) -> Any:
    """list[Row] -> Row, Row | None -> Row."""
    if typing.get_origin(result) is list:
        [result] = typing.get_args(result)
    return result


def _flat(hint: Any) -> Iterator[Any]:
    """The hints of the columns behind a row: a dataclass is its fields, in order."""
    bare = _not_none(hint)
    if not dataclasses.is_dataclass(bare):
        if bare is not types.NoneType:
            yield bare
        return
    hints = typing.get_type_hints(bare)
    for field in dataclasses.fields(bare):
        yield from _flat(hints[field.name])


def _not_none(hint: Any) -> Any:
    arguments = [part for part in typing.get_args(hint) if part is not types.NoneType]
    if isinstance(hint, types.UnionType) and len(arguments) == 1:
        return arguments[0]
    return hint


def _compare(
    statement: Statement, role: str, hints: Sequence[Any], types_: Iterable[Any]
) -> Iterator[str]:
    actual = list(types_)
    if len(hints) != len(actual):
        yield f"{statement.name}: {len(hints)} {role}s in Python, {len(actual)} in PostgreSQL"
        return
    for position, (hint, pg_type) in enumerate(zip(hints, actual, strict=True), start=1):
        if not _agrees(hint, pg_type.name):
            told = f"is {hint} in Python, {pg_type.name} in PostgreSQL"
            yield f"{statement.name}: {role} {position} {told}"


def _agrees(hint: Any, pg_name: str) -> bool:
    """Whether values of the PostgreSQL type are what the hint says."""
    bare = _not_none(hint)
    if typing.get_origin(bare) in {list, collections.abc.Sequence}:
        [element] = typing.get_args(bare)
        return pg_name.endswith("[]") and _agrees(element, pg_name[:-2])
    if isinstance(bare, type) and issubclass(bare, enum.StrEnum):
        return class_name(pg_name) == bare.__name__
    known = pg_types.SCALARS.get(pg_types.SPELLINGS.get(pg_name, pg_name))
    return known is not None and pydoc.locate(known.annotation) is bare


async def _table_differences(conn: Any, package: types.ModuleType) -> list[str]:
    """Columns whose order or nullability differs between the tables and models.py.

    sqlc does not know that identity columns are NOT NULL, nor what a later migration changed in
    a way that it did not understand.
    """
    tables: dict[str, list[tuple[str, bool]]] = {}
    for relname, attname, not_null in await conn.fetch(COLUMNS):
        tables.setdefault(relname, []).append((value_name(attname), not not_null))
    found: list[str] = []
    for table, columns in tables.items():
        model = getattr(package.models, model_name(table), None)
        if not dataclasses.is_dataclass(model):
            continue
        hints = typing.get_type_hints(model)
        own = [
            (f.name, _not_none(hints[f.name]) != hints[f.name]) for f in dataclasses.fields(model)
        ]
        if own != columns:
            odd = sorted(set(own) ^ set(columns)) or "the order of the columns"
            found.append(f"{package.__name__}.{MODELS}.{model_name(table)}: differs in {odd}")
    return found
