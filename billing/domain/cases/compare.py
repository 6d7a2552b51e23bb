"""`tollway pricing check`: what a case expects against what the rules give.

Invariant: money is compared exactly, in major units; an exact number to the decimals that the case
writes down; only the keys that a case names are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from billing.domain.cases.case import NotSupported
from billing.domain.decimals import decimal_text, parse_exact, round_exact
from billing.domain.errors import InvalidDecimal
from billing.domain.money import Money


@dataclass(frozen=True, slots=True)
class Approximate:
    """A number that no decimal may write down exactly: compared to the decimals of the case."""

    value: Fraction


Value = Money | Fraction | Approximate | str | Sequence["Value"]


@dataclass(frozen=True, slots=True)
class Passed:
    """The rules give what the case expects."""

    case_id: str


@dataclass(frozen=True, slots=True)
class Failed:
    """They give something else. Both sides as plain text by key; `got` of "error" is a refusal."""

    case_id: str
    expected: Mapping[str, str]
    got: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Unsupported:
    """The rules have no such thing; `missing` names it."""

    case_id: str
    missing: str


Outcome = Passed | Failed | Unsupported


def compare(case_id: str, expected: object, got: Mapping[str, Value]) -> Outcome:
    """The outcome of a case. One string or list is the value of the key `total`."""
    wanted = expected if isinstance(expected, Mapping) else {"total": expected}
    for key in wanted:
        if key not in got:
            raise NotSupported(f"expected_amount.{key}")
    wrong = [key for key, value in wanted.items() if not _equal(value, got[key])]
    if not wrong:
        return Passed(case_id)
    return Failed(
        case_id,
        {str(key): _shown(wanted[key]) for key in wrong},
        {str(key): _shown(got[key]) for key in wrong},
    )


def _equal(expected: object, got: Value) -> bool:
    if isinstance(got, Money | Fraction | Approximate):
        return _number(expected) == _exact(got, expected)
    if isinstance(got, str):
        return expected == got
    if not isinstance(expected, list | tuple):
        return False
    if not any(isinstance(one, list | tuple) for one in expected):
        got = _flat(got)
    return len(expected) == len(got) and all(map(_equal, expected, got))


def _exact(got: Money | Fraction | Approximate, expected: object) -> Fraction:
    match got:
        case Money():
            return got.exact
        case Approximate():
            return round_exact(got.value, len(str(expected).partition(".")[2]))
        case _:
            return got


def _flat(values: Sequence[Value]) -> Sequence[Value]:
    """Two periods may be written as two pairs or as four dates in a row."""
    flat: list[Value] = []
    for one in values:
        if isinstance(one, list | tuple):
            flat.extend(_flat(one))
        else:
            flat.append(one)
    return flat


def _number(raw: object) -> Fraction | None:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return Fraction(raw)
    try:
        return parse_exact(raw)
    except InvalidDecimal:
        return None


def _shown(value: object) -> str:
    if isinstance(value, Money):
        return value.to_text()
    if isinstance(value, Approximate):
        value = value.value
    if isinstance(value, Fraction):
        return decimal_text(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_shown(one) for one in value) + "]"
    return str(value)
