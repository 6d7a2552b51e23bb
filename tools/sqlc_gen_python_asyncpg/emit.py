"""Query plugin, step 3 of 3: write the module of one query file.

Invariant: the text depends on the query file alone (no time, no path, no order of a set), so
`sqlc diff` is silent exactly when gen/queries/ is fresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tools.sqlc_gen_python_asyncpg import layout
from tools.sqlc_gen_python_asyncpg.build import annotation, build, class_of, field_annotation
from tools.sqlc_gen_python_asyncpg.request import Column
from tools.sqlc_gen_python_asyncpg.shapes import (
    COPYFROM,
    EXEC,
    EXECROWS,
    MANY,
    ONE,
    Bare,
    Embedded,
    Row,
    Shape,
    Value,
)

SEQUENCE: Final = "collections.abc.Sequence"


def module(filename: str, shapes: Sequence[Shape]) -> str:
    """The text of gen/queries/<name>.py for queries/<name>.sql."""
    names = sorted(name for shape in shapes for name in _exports(shape))
    body = "\n\n\n".join(block for shape in shapes for block in _blocks(shape))
    return "\n".join(
        [
            layout.HEADER,
            f'"""The statements of {filename}, one function each."""',
            "",
            "from __future__ import annotations",
            "",
            *_imports(shapes),
            "",
            *layout.exports(names),
            "",
            "",
            body,
            "",
        ]
    )


def _exports(shape: Shape) -> list[str]:
    names = [shape.function]
    if isinstance(shape.result, Row):
        names.append(class_of(shape, "Row"))
    if shape.query.cmd == COPYFROM:
        names.append(class_of(shape, "Params"))
    return names


def _imports(shapes: Sequence[Shape]) -> list[str]:
    modules = {"typing"} | {m for shape in shapes for v in _values(shape) for m in v.type.imports}
    if any(_takes_sequence(shape) for shape in shapes):
        modules.add("collections.abc")
    if any(
        shape.result is not None and not isinstance(shape.result, Bare | Row) for shape in shapes
    ):
        modules.add("models")
    own = ["ConnectionLike"]
    if any(shape.query.cmd in {EXECROWS, COPYFROM} for shape in shapes):
        own.append("affected_rows")
    if any(isinstance(shape.result, Row) for shape in shapes):
        own.append("row_class")
    return [
        *(f"import {name}" for name in sorted(modules - {"models"})),
        "",
        *(["from . import models"] if "models" in modules else []),
        f"from .connection import {', '.join(own)}",
    ]


def _values(shape: Shape) -> Iterable[Value]:
    """The values that the query module itself spells out or converts."""
    yield from shape.params
    match shape.result:
        case Bare(value=value):
            yield value
        case Row(fields=fields):
            for field in fields:
                if isinstance(field, Embedded):
                    yield Value(field.name, layout.MODEL, nullable=False, is_array=False)
                else:
                    yield field
        case _:
            return


def _takes_sequence(shape: Shape) -> bool:
    return shape.query.cmd == COPYFROM or any(value.is_array for value in shape.params)


def _blocks(shape: Shape) -> Iterable[str]:
    if shape.query.cmd == COPYFROM:
        yield _params_class(shape)
        yield _function(shape, _copy_signature(shape), _copy_body(shape))
        return
    if isinstance(shape.result, Row):
        yield _row_class(shape, shape.result)
    yield _constant(shape)
    yield _function(shape, _signature(shape), _body(shape))


def _constant(shape: Shape) -> str:
    query = shape.query
    # The name stays in the text: pg_stat_activity and the server's log show which statement it is.
    text = layout.literal(f"-- name: {query.name} {query.cmd}\n{query.text.strip()}\n")
    return f"{layout.constant_name(shape.function)}: typing.Final = {text}"


def _row_class(shape: Shape, row: Row) -> str:
    fields = [f"    {field.name}: {field_annotation(field)}" for field in row.fields]
    return "\n".join(
        [
            "@row_class",
            f"class {class_of(shape, 'Row')}:",
            f'    """One row of {shape.function}."""',
            "",
            *fields,
        ]
    )


def _params_class(shape: Shape) -> str:
    fields = [f"    {value.name}: {annotation(value, SEQUENCE)}" for value in shape.params]
    return "\n".join(
        [
            f"class {class_of(shape, 'Params')}(typing.NamedTuple):",
            f'    """One row for {shape.function}; a plain tuple in this order will do too."""',
            "",
            *fields,
        ]
    )


def _returns(shape: Shape) -> str:
    match shape.query.cmd:
        case cmd if cmd == EXEC:
            return "None"
        case cmd if cmd in {EXECROWS, COPYFROM}:
            return "int"
    row = _row_annotation(shape)
    if shape.query.cmd == MANY:
        return f"list[{row}]"
    return row if row.endswith("None") else f"{row} | None"


def _row_annotation(shape: Shape) -> str:
    assert shape.result is not None
    if isinstance(shape.result, Bare):
        return annotation(shape.result.value, "list")
    return build(shape).constructor


def _signature(shape: Shape) -> str:
    params = [f"{value.name}: {annotation(value, SEQUENCE)}" for value in shape.params]
    arguments = ["conn: ConnectionLike", *(["*", *params] if params else [])]
    return layout.call(f"async def {shape.function}", arguments, f" -> {_returns(shape)}:")


def _function(shape: Shape, signature: str, body: Sequence[str]) -> str:
    lines = [signature, *layout.docstring(shape.query.comments), *(f"    {line}" for line in body)]
    return "\n".join(lines)


def _body(shape: Shape) -> list[str]:
    arguments = [layout.constant_name(shape.function), *(value.name for value in shape.params)]
    match shape.query.cmd:
        case cmd if cmd == EXEC:
            return _lines(layout.call("await conn.execute", arguments, "", indent=1))
        case cmd if cmd == EXECROWS:
            execute = layout.call("await conn.execute", arguments, "", indent=6)
            return _wrapped("return affected_rows(", _lines(execute), ")")
        case cmd if cmd == ONE:
            fetch = layout.call("row = await conn.fetchrow", arguments, "", indent=1)
            return [*_lines(fetch), *_one_row(shape)]
    fetch = layout.call("rows = await conn.fetch", arguments, "", indent=1)
    return [*_lines(fetch), *_all_rows(shape)]


def _one_row(shape: Shape) -> list[str]:
    head = "return None if row is None else "
    lines = build(shape).lines(layout.LINE_MAX - len(head) - 4)
    if len(lines) == 1:
        return [head + lines[0]]
    return ["if row is None:", "    return None", f"return {lines[0]}", *lines[1:]]


def _all_rows(shape: Shape) -> list[str]:
    tail = " for row in rows]"
    lines = build(shape).lines(layout.LINE_MAX - len("return [") - len(tail) - 4)
    if len(lines) == 1:
        return [f"return [{lines[0]}{tail}"]
    return ["return [", *(f"    {line}" for line in lines), "    for row in rows", "]"]


def _wrapped(head: str, lines: Sequence[str], tail: str) -> list[str]:
    if len(lines) == 1:
        return [f"{head}{lines[0]}{tail}"]
    return [head, *(f"    {line}" for line in lines), tail]


def _copy_signature(shape: Shape) -> str:
    row = ", ".join(annotation(value, SEQUENCE) for value in shape.params)
    arguments = ["conn: ConnectionLike", "*", f"params: {SEQUENCE}[tuple[{row}]]"]
    return layout.call(f"async def {shape.function}", arguments, " -> int:")


def _copy_body(shape: Shape) -> list[str]:
    table = shape.query.insert_into_table
    assert table is not None
    columns = ", ".join(f'"{_target(param.column)}"' for param in shape.query.params)
    arguments = [f'"{table.name}"', "records=params", f"columns=[{columns}]"]
    if table.schema:
        arguments.append(f'schema_name="{table.schema}"')
    copy = layout.call("status = await conn.copy_records_to_table", arguments, "", indent=1)
    return [*_lines(copy), "return affected_rows(status)"]


def _target(column: Column) -> str:
    """The table's column that the parameter goes to, whatever the parameter is called."""
    return column.original_name or column.name


def _lines(text: str) -> list[str]:
    return text.split("\n")
