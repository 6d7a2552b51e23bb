"""`tollway pricing check`: one case, read field by field.

Invariant: every key of a case is either read by its model or makes the case unsupported under the
key's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction

from billing.domain.decimals import parse_exact
from billing.domain.errors import Invalid
from billing.domain.period import Period


class NotSupported(Exception):
    """The case asks for something that the rules do not have; the argument names it."""


@dataclass(frozen=True, slots=True)
class Section:
    """`config` or `usage` of a case, or an object inside; reads raise Invalid with the path."""

    raw: Mapping[str, object]
    path: str

    @classmethod
    def of(cls, raw: object, path: str) -> Section:
        """A section must be an object; an absent one is empty."""
        if raw is None:
            raw = {}
        if not isinstance(raw, Mapping):
            raise Invalid.field(path, "write an object of named fields.")
        return cls(raw, path)

    def only(self, *known: str) -> Section:
        """The section itself, if it has no key but the known."""
        for key in self.raw:
            if key not in known:
                raise NotSupported(f"{self.path}.{key}")
        return self

    def has(self, key: str) -> bool:
        """Whether the key says something."""
        return self.raw.get(key) is not None

    def need(self, *keys: str) -> str:
        """The first of `keys` that is there; without any the case cannot be run."""
        for key in keys:
            if self.has(key):
                return key
        raise NotSupported(f"{self.path} without {' or '.join(keys)}")

    def number(self, key: str, default: Fraction | None = None) -> Fraction:
        """A decimal string or a whole number."""
        if not self.has(key) and default is not None:
            return default
        return number(self.raw[self.need(key)], f"{self.path}.{key}")

    def maybe_number(self, key: str) -> Fraction | None:
        """The same, None when absent."""
        return self.number(key) if self.has(key) else None

    def fraction(self, key: str) -> Fraction:
        """A decimal string or a quotient of two, "6/7"."""
        where = f"{self.path}.{key}"
        above, slash, below = str(self.raw[self.need(key)]).partition("/")
        divisor = number(below, where) if slash else Fraction(1)
        if divisor == 0:
            raise Invalid.field(where, "must not divide by zero.")
        return number(above, where) / divisor

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number."""
        value = self.number(key, None if default is None else Fraction(default))
        if value.denominator != 1:
            raise Invalid.field(f"{self.path}.{key}", "give a whole number.")
        return int(value)

    def text(self, key: str, default: str | None = None) -> str:
        """A word, in lower case."""
        if not self.has(key) and default is not None:
            return default
        return str(self.raw[self.need(key)]).lower()

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        raw = self.raw.get(key, default)
        if not isinstance(raw, bool):
            raise NotSupported(f"{self.path}.{key}={raw}")
        return raw

    def items(self, key: str) -> Sequence[object]:
        """A list; one value that is not a list counts as a list of it."""
        raw = self.raw.get(key)
        if raw is None:
            return ()
        return raw if isinstance(raw, list | tuple) else (raw,)

    def children(self, key: str) -> list[Section]:
        """A list of objects."""
        return [Section.of(raw, f"{self.path}.{key}") for raw in self.items(key)]

    def child(self, key: str) -> Section:
        """An object inside."""
        return Section.of(self.raw[self.need(key)], f"{self.path}.{key}")

    def instant(self, key: str) -> datetime:
        """A date (its midnight in UTC) or an instant."""
        return instant(self.raw[self.need(key)], f"{self.path}.{key}")

    def period(self, key: str) -> Period:
        """[start, end)."""
        ends = self.items(key)
        if len(ends) != 2:
            raise Invalid.field(f"{self.path}.{key}", "give [start, end].")
        where = f"{self.path}.{key}"
        return Period(instant(ends[0], where), instant(ends[1], where))


@dataclass(frozen=True, slots=True)
class Case:
    """What the checker reads of a case; the rest is for people."""

    model: str
    raw_currency: str | None
    config: Section
    usage: Section
    expected: object

    @property
    def currency(self) -> str:
        """Cases about money name it; it is never defaulted."""
        if not self.raw_currency:
            raise NotSupported("no currency")
        return self.raw_currency


def number(raw: object, path: str) -> Fraction:
    """A decimal string or a whole number; a float is refused."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return Fraction(raw)
    return parse_exact(raw, path=path)


def instant(raw: object, path: str) -> datetime:
    """A date (its midnight in UTC) or an ISO instant; one without a zone is in UTC."""
    try:
        at = datetime.fromisoformat(str(raw))
    except ValueError as error:
        raise Invalid.field(path, "write a date such as 2024-01-31.") from error
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def day_text(at: datetime) -> str:
    """The date of an instant, as cases write it."""
    return date.isoformat(at.date())


def last_day_text(period: Period) -> str:
    """The last date inside a period."""
    return day_text(period.end - timedelta(microseconds=1))
