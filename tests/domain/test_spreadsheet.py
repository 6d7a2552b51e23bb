"""Rows for spreadsheets: what people wrote is never a formula, and our numbers stay numbers."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from billing.domain.money import Money
from billing.domain.spreadsheet import Cell, csv_text

texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"))


@given(st.lists(st.lists(texts, min_size=2, max_size=4), min_size=1, max_size=4))
def test_what_is_read_back_is_the_text_and_begins_no_formula(rows: list[list[str]]) -> None:
    read = list(csv.reader(io.StringIO(csv_text(rows), newline="")))
    assert [[cell.removeprefix("'") for cell in row] for row in read] == [
        [cell.removeprefix("'") for cell in row] for row in rows
    ]
    for row in read:
        for cell in row:
            assert not cell.lstrip().startswith(("=", "+", "-", "@")), cell


def test_amounts_and_instants_are_plain() -> None:
    row: list[Cell] = [
        Money(-1230, "EUR"),
        Money(5, "JPY"),
        Fraction(1, 8),
        datetime(2024, 5, 1, tzinfo=UTC),
    ]
    assert csv_text([[*row, None, 7]]) == "-12.30,5,0.125,2024-05-01T00:00:00+00:00,,7\r\n"
    assert csv_text([['=HYPERLINK("x")', "a,b"]]) == '"\'=HYPERLINK(""x"")","a,b"\r\n'
