"""Query plugin, step 2 of 3: decide what a query is in Python: parameters, row, refusals.

Invariant: everything that can be wrong with a query is found here, before any text is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tools.sqlc_gen_python_asyncpg import nullability, pg_types
from tools.sqlc_gen_python_asyncpg.names import model_name, snake, value_name
from tools.sqlc_gen_python_asyncpg.pg_types import PyType
from tools.sqlc_gen_python_asyncpg.refusal import Refusal
from tools.sqlc_gen_python_asyncpg.request import Column, Query, Request, Table

ONE, MANY, EXEC, EXECROWS, COPYFROM = ":one", ":many", ":exec", ":execrows", ":copyfrom"
COMMANDS: Final = (ONE, MANY, EXEC, EXECROWS, COPYFROM)

# `AS "closed_at?"`: may be NULL although a cast hides it. `AS "total!"`: never NULL, the author
# vouches. The only way to say it: sqlc takes every cast and every function for NOT NULL.
NULLABLE_MARK, NOT_NULL_MARK = "?", "!"

# Functions that sqlc types rightly and that are never NULL. It types the others by their first
# overload (sum(bigint) is numeric in truth, max() of no rows is NULL), so they need a cast.
SURE_FUNCTIONS: Final = frozenset(
    {"count", "now", "clock_timestamp", "transaction_timestamp", "statement_timestamp"}
    | {"gen_random_uuid", "uuidv7", "nextval", "row_number", "set_config"}
    | {"pg_try_advisory_xact_lock", "pg_advisory_xact_lock", "pg_advisory_xact_lock_shared"}
)
_COUNT_AS = re.compile(
    r"\bcount\s*\([^()]*\)(?:\s*filter\s*\((?:[^()]|\([^()]*\))*\))?\s+as\s+\"?([a-z0-9_]+)",
    re.IGNORECASE,
)
_OUTER_JOIN = re.compile(r"\b(left|right|full)\s+(outer\s+)?join\b", re.IGNORECASE)
_LEFTOVER = re.compile(r"(?<![\w@<>&|])@[a-z_]\w*|\bsqlc\.n?arg\b", re.IGNORECASE)
_PARAM_NAME = re.compile(r"[A-Za-z_]\w*")
_BARE_UNNEST = re.compile(r"\bselect\s+unnest\s+from\s+unnest\s*\(", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Value:
    """One parameter, field or bare result: its name, its type and whether None may stand there."""

    name: str
    type: PyType
    nullable: bool
    is_array: bool


@dataclass(frozen=True, slots=True)
class Embedded:
    """A field that holds a whole table row."""

    name: str
    table: Table
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Bare:
    """A row of one column is the value itself."""

    value: Value


@dataclass(frozen=True, slots=True)
class Model:
    """A row that is a row of the table: the table's class in models.py."""

    table: Table
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the query's own: a dataclass beside the function."""

    fields: tuple[Value | Embedded, ...]


Result = Bare | Model | Row


@dataclass(frozen=True, slots=True)
class Shape:
    """One query, decided."""

    query: Query
    function: str
    params: tuple[Value, ...]
    result: Result | None


def decide(query: Query, request: Request) -> Shape:
    """The shape of a query, or a Refusal that names its file, its name and the way out."""
    where = f"{query.filename}: {query.name}"
    if query.cmd not in COMMANDS:
        raise Refusal(where, f"command {query.cmd} is not supported.", f"Use {' '.join(COMMANDS)}.")
    _refuse_broken_text(query, where)
    params = tuple(_param(query, number, where, request) for number in range(len(query.params)))
    _refuse_repeats(where, "parameters", params)
    result = _result(query, where, request) if query.cmd in {ONE, MANY} else None
    return Shape(query, value_name(snake(query.name)), params, result)


def _refuse_broken_text(query: Query, where: str) -> None:
    """What sqlc writes without a word although PostgreSQL would refuse or misread it."""
    if _BARE_UNNEST.search(query.text):
        raise Refusal(
            where,
            "sqlc expands SELECT * FROM unnest(…) to a single column.",
            "Write SELECT t.a, t.b FROM unnest(@a::type[], @b::type[]) AS t (a, b).",
        )
    leftover = _LEFTOVER.search(query.text)
    if leftover is not None:
        raise Refusal(
            where,
            f"sqlc left {leftover.group()} in the text: it does not read this kind of statement.",
            "Write it with INSERT … ON CONFLICT, UPDATE … FROM or DELETE … USING (no MERGE).",
        )


def table_values(table: Table, request: Request) -> tuple[Value, ...]:
    """The columns of a table as its model's fields."""
    where = f"table {table.name.name}"
    values = tuple(_value(column, where, "column", request) for column in table.columns)
    _refuse_repeats(where, "columns", values)
    return values


def _param(query: Query, index: int, where: str, request: Request) -> Value:
    number, column = query.params[index].number, query.params[index].column
    if not column.is_named_param:
        raise Refusal(where, f"parameter ${number} has no name.", "Write @name.")
    if not _PARAM_NAME.fullmatch(column.name):
        # `@` is an operator that binds less than + - * /: sqlc reads @a + 1 as @(a + 1).
        what = f"parameter ${number} reads as {column.name!r}: an operator follows an @name."
        raise Refusal(where, what, "Write sqlc.arg(name)::type + 1.")
    if number != index + 1:
        raise Refusal(where, f"parameter ${index + 1} is missing.", "Number without gaps.")
    if not column.is_array and re.search(rf"\b(any|all)\s*\(\s*\${number}\s*\)", query.text, re.I):
        what = f"parameter {column.name} in ANY(…) is no array to sqlc."
        raise Refusal(where, what, f"Write ANY(@{column.name}::type[]).")
    return _value(column, where, "parameter", request)


def _result(query: Query, where: str, request: Request) -> Result:
    if not query.columns:
        raise Refusal(where, f"a {query.cmd} query returns no columns.", "Add RETURNING, or :exec.")
    table = _whole_table(query.columns, request.tables.values())
    if table is not None:
        return Model(table, table_values(table, request))
    fields = tuple(_field(column, query, where, request) for column in query.columns)
    if len(fields) == 1:
        [field] = fields
        return Model(field.table, field.values) if isinstance(field, Embedded) else Bare(field)
    for position, column in enumerate(query.columns, start=1):
        if not column.name:
            raise Refusal(where, f"column {position} has no name.", "Give it one: … AS name.")
    _refuse_repeats(where, "columns", fields)
    return Row(fields)


def _whole_table(columns: tuple[Column, ...], tables: Iterable[Table]) -> Table | None:
    """The table of which these are all columns, in order, as nullable as the table says."""
    for table in tables:
        if len(table.columns) == len(columns) > 1 and all(
            result.table is not None
            and result.table.name == table.name.name
            and result.table.schema == table.name.schema
            and (result.name, result.not_null) == (own.name, own.not_null)
            and (result.type, result.is_array) == (own.type, own.is_array)
            for result, own in zip(columns, table.columns, strict=True)
        ):
            return table
    return None


def _field(column: Column, query: Query, where: str, request: Request) -> Value | Embedded:
    if column.embed_table is not None:
        return _embedded(column, query, where, request)
    _refuse_unsure_function(column, query, where)
    _refuse_hidden_null(column, query, where)
    return _value(column, where, "column", request)


def _embedded(column: Column, query: Query, where: str, request: Request) -> Embedded:
    assert column.embed_table is not None
    table = request.tables.get(column.embed_table)
    if table is None:
        raise Refusal(where, f"sqlc.embed({column.name}) is no table.", "Name the columns.")
    if _OUTER_JOIN.search(query.text):
        raise Refusal(
            where,
            f"sqlc.embed({table.name.name}) beside an outer join may be a row of NULLs.",
            "Name the columns instead of embedding.",
        )
    name = value_name(model_name(table.name.name))
    return Embedded(name, table, table_values(table, request))


def _refuse_unsure_function(column: Column, query: Query, where: str) -> None:
    if not column.is_func_call or column.name.endswith((NULLABLE_MARK, NOT_NULL_MARK)):
        return
    if column.name in SURE_FUNCTIONS or column.name in _COUNT_AS.findall(query.text):
        return
    raise Refusal(
        where,
        f"column {column.name or '?'} is a function's result: sqlc guesses its type and takes it "
        "for NOT NULL.",
        'Cast it: f(…)::type AS name, or AS "name?" when it may be NULL.',
    )


def _refuse_hidden_null(column: Column, query: Query, where: str) -> None:
    if (
        not column.not_null
        or not column.name
        or column.name.endswith((NULLABLE_MARK, NOT_NULL_MARK))
    ):
        return
    reason = nullability.why_null(query.text, column.name)
    if reason is not None:
        raise Refusal(
            where,
            f"column {column.name}: {reason}, and sqlc takes it for NOT NULL.",
            f'Write AS "{column.name}?", or AS "{column.name}!" when it cannot be, or coalesce it.',
        )


def _value(column: Column, where: str, role: str, request: Request) -> Value:
    name = column.name.removesuffix(NULLABLE_MARK).removesuffix(NOT_NULL_MARK)
    py_type = pg_types.lookup(column, request.enums)
    if py_type is None:
        what = f"{role} {name or '?'} has the type {column.type.name or '?'}, which is not known."
        raise Refusal(where, what, pg_types.remedy(column))
    if column.array_dims > 1:
        what = f"{role} {name} is an array of {column.array_dims} dimensions."
        raise Refusal(where, what, "Use one dimension.")
    nullable = not column.not_null
    if column.name.endswith(NULLABLE_MARK):
        nullable = True
    elif column.name.endswith(NOT_NULL_MARK):
        nullable = False
    return Value(
        value_name(name), py_type, nullable and py_type.annotation != "None", column.is_array
    )


def _refuse_repeats(where: str, role: str, values: Iterable[Value | Embedded]) -> None:
    seen: set[str] = set()
    for value in values:
        if value.name in seen:
            raise Refusal(where, f"two {role} are named {value.name}.", "Rename one: … AS name.")
        seen.add(value.name)


def used_tables(shapes: Iterable[Shape]) -> Mapping[str, Table]:
    """The tables whose models the shapes refer to, by model name; a Refusal when two share it."""
    tables: dict[str, Table] = {}
    for shape in shapes:
        for table in _tables_of(shape.result):
            name = model_name(table.name.name)
            if tables.setdefault(name, table) != table:
                names = f"{tables[name].name.name} and {table.name.name}"
                raise Refusal("models.py", f"tables {names} would both be {name}.", "Rename one.")
    return tables


def _tables_of(result: Result | None) -> tuple[Table, ...]:
    match result:
        case Model(table=table):
            return (table,)
        case Row(fields=fields):
            return tuple(field.table for field in fields if isinstance(field, Embedded))
        case _:
            return ()
