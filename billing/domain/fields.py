"""Catalog: stored rules read field by field, from plain JSON-able mappings.

Invariant: each wrong field is named by its path, and a field that nobody asked for is refused: a
typing error in a price or a filter would cost money in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Final

from billing.domain.decimals import parse_exact
from billing.domain.errors import Invalid

TEXT_MAX: Final = 200
# An amount or a bound beyond this is a typing error, and would not fit into 64 bits of minor units.
DECIMAL_LIMIT: Final = 10**15


class Fields:
    """A mapping that is read field by field; what nobody asked for is refused by `finish`."""

    def __init__(self, raw: object, path: str, error: type[Invalid]) -> None:
        if not isinstance(raw, Mapping):
            raise error.field(path or "config", "write an object of named fields.")
        self._raw, self._path, self._error, self._asked = raw, path, error, set[str]()

    def where(self, name: str) -> str:
        """The path of one field."""
        return f"{self._path}.{name}" if self._path else name

    def get(self, name: str) -> object:
        """The raw value; None when absent."""
        self._asked.add(name)
        return self._raw.get(name)

    def optional(self, name: str, *, negative: bool = False) -> Fraction | None:
        """A decimal string, not below zero unless `negative`."""
        raw = self.get(name)
        if raw is None:
            return None
        value = parse_exact(raw, path=self.where(name))
        if value < 0 and not negative:
            raise self._error.field(self.where(name), "must not be negative.")
        if abs(value) >= DECIMAL_LIMIT:
            raise self._error.field(self.where(name), f"must be below {DECIMAL_LIMIT}.")
        return value

    def decimal(self, name: str, default: Fraction | None = None) -> Fraction:
        """A decimal string of zero or more; without a default it is required."""
        value = self.optional(name)
        if value is None:
            value = default
        if value is None:
            raise self._error.field(self.where(name), 'is required; write it like "12.5".')
        return value

    def positive(self, name: str, default: Fraction | None = None) -> Fraction:
        """A decimal string above zero."""
        value = self.decimal(name, default)
        if value <= 0:
            raise self._error.field(self.where(name), "must be above zero.")
        return value

    def whole(self, name: str, limit: int) -> int | None:
        """A whole number of zero or more, as a number or as digits."""
        raw = self.get(name)
        if raw is None:
            return None
        text = str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else raw
        value = parse_exact(text, path=self.where(name), max_decimals=0)
        if not 0 <= value <= limit:
            raise self._error.field(self.where(name), f"give a whole number from 0 to {limit}.")
        return int(value)

    def text(self, raw: object, where: str) -> str:
        """A short string."""
        if not isinstance(raw, str) or not 0 < len(raw) <= TEXT_MAX:
            raise self._error.field(where, f"write a text of 1 to {TEXT_MAX} characters.")
        return raw

    def items(self, name: str, limit: int) -> Sequence[object]:
        """A list of 1 to `limit` entries."""
        raw = self.get(name)
        if not isinstance(raw, list | tuple) or not 0 < len(raw) <= limit:
            raise self._error.field(self.where(name), f"give a list of 1 to {limit} entries.")
        return raw

    def child(self, name: str) -> Fields | None:
        """A nested object."""
        raw = self.get(name)
        return None if raw is None else Fields(raw, self.where(name), self._error)

    def finish(self) -> None:
        """Refuse a field that the model does not know: a typing error would cost money."""
        unknown = sorted(str(name)[:TEXT_MAX] for name in self._raw if name not in self._asked)
        if unknown:
            raise self._error.field(
                self.where(unknown[0]),
                f"is unknown here; known are {', '.join(sorted(self._asked))}.",
            )
