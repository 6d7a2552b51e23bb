"""Usage import: rows from CSV or JSON lines, plain or as the one file in a zip archive.

Invariant: one row is in memory at a time, however large the file; a row that cannot be read is handed on with what is
wrong with it and does not end the import.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from cli.usage_import.options import ImportFailed

JSON_LINES: Final = frozenset({".jsonl", ".ndjson"})
TABLES: Final = frozenset({".csv", ".tsv"})
LINE_LENGTH_MAX: Final = 1_000_000
NOT_UTF8: Final = "it is not UTF-8 text"
_SURROGATE: Final = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class Row:
    """One row as texts; `problem` says why it could not be read."""

    number: int
    values: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    raw: str = ""  # the line of a JSON lines file as it stands, for the rejects


class RowReader:
    """The rows of a file, in order; a context manager. `bytes_read` of `bytes_total` tells how far it has come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self.bytes_total = 0
        self._counted: _Counted | None = None
        # Empty for JSON lines, which have no header.
        self.columns: list[str] = []
        self._rows: Iterator[Row] = iter(())

    def __enter__(self) -> Self:
        try:
            self._open()
        except (OSError, zipfile.BadZipFile, UnicodeDecodeError, csv.Error) as error:
            self._stack.close()
            raise ImportFailed(f"{self._path}: {error}") from error
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def bytes_read(self) -> int:
        """How much of the (unpacked) file has been read."""
        return self._counted.count if self._counted is not None else 0

    def rows(self) -> Iterator[Row]:
        """Each row once. Raises ImportFailed when the file cannot be read on."""
        try:
            yield from self._rows
        except (OSError, zipfile.BadZipFile, UnicodeDecodeError, csv.Error) as error:
            raise ImportFailed(f"{self._path}: {error}") from error

    def _open(self) -> None:
        raw, name = self._raw()
        self._counted = _Counted(raw)
        lines = io.TextIOWrapper(
            # Bytes that are no UTF-8 become surrogates, so that they spoil their own row only.
            io.BufferedReader(self._counted),
            "utf-8-sig",
            errors="surrogateescape",
            newline="",
        )
        self._stack.enter_context(lines)
        suffix = Path(name).suffix.lower()
        if suffix in JSON_LINES:
            self._rows = _json_rows(lines)
        elif suffix in TABLES:
            csv.field_size_limit(LINE_LENGTH_MAX)
            table = csv.reader(lines, delimiter="\t" if suffix == ".tsv" else ",")
            self.columns = next(table, [])
            if not self.columns:
                raise ImportFailed(f"{name}: is empty; its first line must name the columns.")
            self._rows = _table_rows(table, self.columns)
        else:
            known = ", ".join(sorted(JSON_LINES | TABLES | {".zip"}))
            raise ImportFailed(f"{name}: the name must end in one of {known}.")

    def _raw(self) -> tuple[IO[bytes], str]:
        if self._path.suffix.lower() != ".zip":
            self.bytes_total = self._path.stat().st_size
            return self._stack.enter_context(self._path.open("rb")), self._path.name
        archive = self._stack.enter_context(zipfile.ZipFile(self._path))
        files = [
            member
            for member in archive.infolist()
            if Path(member.filename).suffix.lower() in JSON_LINES | TABLES
        ]
        if len(files) != 1:
            raise ImportFailed(
                f"{self._path}: the archive must hold one CSV or JSON lines file, not {len(files)}."
            )
        self.bytes_total = files[0].file_size
        return self._stack.enter_context(archive.open(files[0])), files[0].filename


class _Counted(io.RawIOBase):
    """Counts what is read through it."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        piece = self._source.read(len(view))
        view[: len(piece)] = piece
        self.count += len(piece)
        return len(piece)


def _table_rows(table: Iterator[list[str]], columns: list[str]) -> Iterator[Row]:
    for number, cells in enumerate(table, start=1):
        values = dict(zip(columns, cells, strict=False))
        if not cells:  # an empty line is no row
            continue
        problem = ""
        if len(cells) != len(columns):
            problem = f"it has {len(cells)} cells, the header has {len(columns)}"
        elif any(_is_spoilt(cell) for cell in cells):
            problem = NOT_UTF8
        yield Row(number, values, problem)


def _json_rows(lines: io.TextIOWrapper) -> Iterator[Row]:
    number = 0
    while line := lines.readline(LINE_LENGTH_MAX + 1):
        number += 1
        if len(line) > LINE_LENGTH_MAX:
            raise ImportFailed(
                f"line {number}: longer than {LINE_LENGTH_MAX} characters; it must be one JSON object a line."
            )
        if line.strip():
            yield _json_row(number, line)


def _json_row(number: int, line: str) -> Row:
    raw = line.rstrip("\r\n")
    if _is_spoilt(line):
        return Row(number, problem=NOT_UTF8, raw=raw)
    try:
        # Numbers stay the digits that were written: no float on the way.
        found = json.loads(line, parse_float=str, parse_int=str, parse_constant=str)
    except ValueError as error:
        return Row(number, problem=f"it is no JSON: {error}", raw=raw)
    if not isinstance(found, dict):
        return Row(number, problem="it is no JSON object", raw=raw)
    return Row(number, {name: _text(value) for name, value in found.items()}, raw=raw)


def _is_spoilt(text: str) -> bool:
    return not text.isascii() and _SURROGATE.search(text) is not None


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case _:
            return json.dumps(value)
