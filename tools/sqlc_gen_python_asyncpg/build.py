"""Query plugin, step 3 of 3: how one record becomes one result.

Hot paths read thousands of rows a call, so a row without conversions is `Row(*row)`; with some,
the runs between them stay slices: `Row(*(*row[0:3], models.Status(row[3]), *row[4:9]))`.

Invariant: values are taken by position only. The names of columns in the result do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools.sqlc_gen_python_asyncpg.names import class_name, model_name
from tools.sqlc_gen_python_asyncpg.shapes import Bare, Embedded, Model, Row, Shape, Value


@dataclass(frozen=True, slots=True)
class Build:
    """What is built from `row`: a call of `constructor`, or the bare value without one."""

    constructor: str
    parts: tuple[str, ...]

    def lines(self, room: int) -> list[str]:
        """The expression, on one line when `room` columns are enough."""
        if not self.constructor:
            return [self.parts[0]]
        flat = f"{self.constructor}({_one_star(self.parts)})"
        if len(flat) <= room:
            return [flat]
        inner = [f"        {part}," for part in self.parts]
        if not _has_star(self.parts):
            return [f"{self.constructor}(", *(line[4:] for line in inner), ")"]
        return [f"{self.constructor}(", "    *(", *inner, "    )", ")"]


def class_of(shape: Shape, role: str) -> str:
    """FinalizeInvoice, "Row" -> FinalizeInvoiceRow."""
    return f"{class_name(shape.query.name)}{role}"


def annotation(value: Value, container: str) -> str:
    """The type of a value; `container` is what an array is here: list or a Sequence.

    A nullable array parameter also takes None among its elements: it is how `unnest` fills
    nullable columns (`sqlc.narg(notes)::text[]`).
    """
    base = value.type.annotation
    if value.is_array:
        inner = f"{base} | None" if value.nullable and container != "list" else base
        base = f"{container}[{inner}]"
    return f"{base} | None" if value.nullable else base


def field_annotation(field: Value | Embedded) -> str:
    """The type of a field of a row class."""
    if isinstance(field, Embedded):
        return f"models.{model_name(field.table.name.name)}"
    return annotation(field, "list")


def build(shape: Shape) -> Build:
    """How the result of a query is built from `row`."""
    match shape.result:
        case Bare(value=value):
            return Build("", (_converted(value, "row[0]") or "row[0]",))
        case Model(table=table, values=values):
            constructor = f"models.{model_name(table.name.name)}"
            return Build(constructor, _parts(values, 0, whole=True))
        case Row(fields=fields):
            return Build(class_of(shape, "Row"), _row_parts(fields))
        case _:
            raise AssertionError(f"{shape.query.name} returns no rows")


def _row_parts(fields: Sequence[Value | Embedded]) -> tuple[str, ...]:
    if not any(isinstance(field, Embedded) for field in fields):
        values = [field for field in fields if isinstance(field, Value)]
        return _parts(values, 0, whole=True)
    parts: list[str] = []
    position = 0
    for field in fields:
        if isinstance(field, Embedded):
            inner = _one_star(_parts(field.values, position, whole=False))
            parts.append(f"{field_annotation(field)}({inner})")
            position += len(field.values)
        else:
            parts.append(_converted(field, f"row[{position}]") or f"row[{position}]")
            position += 1
    return tuple(parts)


def _parts(values: Sequence[Value], start: int, *, whole: bool) -> tuple[str, ...]:
    """The values from `start` on as arguments. `whole`: they are all that the record holds."""
    parts: list[str] = []
    run_start = start
    for position, value in enumerate(values, start=start):
        converted = _converted(value, f"row[{position}]")
        if converted is not None:
            parts.extend(_run(run_start, position))
            parts.append(converted)
            run_start = position + 1
    if whole and run_start == start:
        return ("*row",)
    parts.extend(_run(run_start, start + len(values)))
    return tuple(parts)


def _one_star(parts: Sequence[str]) -> str:
    """Type checkers take a star for "all that is left": there is one, around everything."""
    arguments = ", ".join(parts)
    return f"*({arguments})" if _has_star(parts) else arguments


def _has_star(parts: Sequence[str]) -> bool:
    return len(parts) > 1 and any(part.startswith("*") for part in parts)


def _run(start: int, stop: int) -> list[str]:
    """The plain values [start, stop) of a record."""
    if stop - start <= 1:
        return [f"row[{start}]"] if stop > start else []
    return [f"*row[{start}:{stop}]"]


def _converted(value: Value, item: str) -> str | None:
    """The expression that turns asyncpg's value into ours, or None when it is the same."""
    convert = value.type.convert
    if convert is None:
        return None
    expression = f"[{convert('item')} for item in {item}]" if value.is_array else convert(item)
    return f"None if {item} is None else {expression}" if value.nullable else expression
