"""Usage import: the rows that were not recorded, kept with the reason, so that they can be mended and imported again.

Invariant: the file has the original columns first; it is made when the first row is refused, and not before.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from cli.usage_import.options import ImportFailed
from cli.usage_import.reader import Row

LINE: Final = "line"
EXTRA: Final = ("row_number", "outcome", "reason", "message")


class Rejects:
    """Writes refused rows as CSV; a context manager. Without a path it only counts."""

    def __init__(self, path: Path | None, columns: Sequence[str]) -> None:
        self._path, self._columns = path, list(columns)
        self._file: IO[str] | None = None
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def written_to(self) -> Path | None:
        """The file, if any row was refused."""
        return self._path if self._file is not None else None

    def add(self, row: Row, outcome: str, reason: str, message: str) -> None:
        """One refused row."""
        if self._path is None:
            return
        if self._writer is None:
            self._begin(self._path)
        cells = [row.values.get(column, "") for column in self._columns] or [row.raw]
        self._writer.writerow([*cells, row.number, outcome, reason, message])

    def _begin(self, path: Path) -> None:
        try:
            # As the reader reads: what is no UTF-8 comes out as the bytes that went in.
            self._file = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        except OSError as error:
            raise ImportFailed(f"{path}: {error}") from error
        self._writer = csv.writer(self._file)
        # JSON lines have no columns: the line is kept as it stands.
        self._writer.writerow([*(self._columns or [LINE]), *EXTRA])
