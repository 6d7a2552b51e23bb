"""Invoice path, for looking: rows for spreadsheets, as CSV (RFC 4180).

Invariant: a text that people wrote is never taken for a formula, whatever it begins with; our own numbers stay numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from fractions import Fraction
from typing import Final

from billing.domain.decimals import decimal_text
from billing.domain.money import Money

# What spreadsheets take for the beginning of a formula, some of them behind blanks too, or split cells at.
_FORMULA: Final = ("=", "+", "-", "@", "\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}",
                   "\N{FULLWIDTH HYPHEN-MINUS}", "\N{FULLWIDTH COMMERCIAL AT}")  # fmt: skip
_CONTROL: Final = ("\t", "\r", "\n")

Cell = str | int | Fraction | Money | datetime | None


def csv_text(rows: Iterable[Sequence[Cell]]) -> str:
    """Rows as CSV: amounts in major units, instants in ISO 8601, nothing for None."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerows([_cell(cell) for cell in row] for row in rows)
    return out.getvalue()


def _cell(cell: Cell) -> str | int:
    match cell:
        case None:
            return ""
        case str():
            is_formula = cell.startswith(_CONTROL) or cell.lstrip().startswith(_FORMULA)
            return "'" + cell if is_formula else cell
        case Money():
            return cell.to_text()
        case Fraction():
            return decimal_text(cell)
        case datetime():
            return cell.isoformat()
        case int():
            return cell
