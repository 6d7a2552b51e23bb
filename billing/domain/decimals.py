"""Every path: exact numbers, from their text and back.

Invariant: between the text and the one rounding of a line every number is a Fraction; no float,
no rounding in passing. Design section 3: unit prices and quantities are decimal strings with up
to 12 decimals.
"""

from __future__ import annotations

import re
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Final

from billing.domain.errors import InvalidDecimal

DECIMALS_MAX: Final = 12
DIGITS_MAX: Final = 30
# How much of a wrong text an error repeats.
_SHOWN_MAX: Final = 40
# No exponent, no sign but minus, no spaces, no bare point, ASCII digits only.
_DECIMAL: Final = re.compile(r"-?[0-9]+(?:\.([0-9]+))?")


class Rounding(StrEnum):
    """Decimal's eight ways to round without the exotic one. Money knows only HALF_UP."""

    HALF_UP = "half_up"
    HALF_DOWN = "half_down"
    HALF_EVEN = "half_even"
    UP = "up"  # away from zero
    DOWN = "down"  # towards zero
    CEILING = "ceiling"
    FLOOR = "floor"


def parse_decimal(
    text: object,
    *,
    path: str = "value",
    max_decimals: int = DECIMALS_MAX,
    max_digits: int = DIGITS_MAX,
) -> Decimal:
    """The decimal in `text`, such as "-12.5"; NaN, Infinity, 1e3 and spaces are refused.

    Raises InvalidDecimal naming `path` and the limit that was passed.
    """
    if not isinstance(text, str):
        raise InvalidDecimal.field(path, 'write the number as a string, such as "12.5".')
    # The length comes first, so that a megabyte of digits costs nothing.
    if len(text) > max_digits + 2:
        raise InvalidDecimal.field(path, f"at most {max_digits} digits are allowed.")
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise InvalidDecimal.field(
            path, f'{text[:_SHOWN_MAX]!r} is not a decimal number; write it like "12.5".'
        )
    if sum(map(str.isdigit, text)) > max_digits:
        raise InvalidDecimal.field(path, f"at most {max_digits} digits are allowed.")
    if match[1] is not None and len(match[1]) > max_decimals:
        raise InvalidDecimal.field(path, f"at most {max_decimals} decimals are allowed.")
    return Decimal(text)


def parse_exact(text: object, *, path: str = "value", max_decimals: int = DECIMALS_MAX) -> Fraction:
    """`parse_decimal` as the exact number that the rules calculate with."""
    return Fraction(parse_decimal(text, path=path, max_decimals=max_decimals))


def exact(value: Decimal | int) -> Fraction:
    """A stored number as the exact one that the rules calculate with: Fraction(value), in a fifth of its time."""
    return Fraction(*value.as_integer_ratio())


def round_half_away(value: Fraction, *, scale: int = 1) -> int:
    """The nearest whole number to value x scale; a half goes away from zero (decimal's ROUND_HALF_UP).

    So round(-x) = -round(x), and an upgrade and its reverse net to zero. Scaled in whole numbers: every line comes by
    here several times, and a product of fractions takes many times as long.
    """
    numerator, denominator = value.numerator * scale, value.denominator
    if numerator < 0:
        return -((denominator - 2 * numerator) // (2 * denominator))
    return (2 * numerator + denominator) // (2 * denominator)


def round_exact(value: Fraction, decimals: int, mode: Rounding = Rounding.HALF_UP) -> Fraction:
    """`value` with so many decimals; negative `decimals` round to tens, hundreds, ..."""
    scale = Fraction(10) ** decimals
    return Fraction(_round_whole(value * scale, mode)) / scale


def _round_whole(value: Fraction, mode: Rounding) -> int:
    """Rounding of the size alone, then the sign again, except for the two directed modes."""
    if mode is Rounding.HALF_UP:
        return round_half_away(value)
    floor = value.numerator // value.denominator
    if mode is Rounding.FLOOR:
        return floor
    if mode is Rounding.CEILING:
        return -(-value.numerator // value.denominator)
    sign = -1 if value < 0 else 1
    whole, rest = divmod(abs(value.numerator), value.denominator)
    half = 2 * rest - value.denominator
    up = {
        Rounding.UP: rest > 0,
        Rounding.DOWN: False,
        Rounding.HALF_DOWN: half > 0,
        Rounding.HALF_EVEN: half > 0 or (half == 0 and whole % 2 == 1),
    }[mode]
    return sign * (whole + up)


def decimal_text(value: Fraction, *, decimals: int = DECIMALS_MAX, at_least: int = 0) -> str:
    """`value` for people and for storing: no exponent, no trailing zeros past `at_least`.

    Exact whenever `value` has no more than `decimals` decimals; else rounded half away from zero.
    """
    if value.denominator == 1 and not at_least:
        return str(value.numerator)
    units = round_half_away(value, scale=10**decimals)
    sign = "-" if units < 0 else ""
    digits = str(abs(units)).zfill(decimals + 1)
    whole, part = digits[: len(digits) - decimals], digits[len(digits) - decimals :]
    part = part.rstrip("0").ljust(at_least, "0")
    return f"{sign}{whole}.{part}" if part else f"{sign}{whole}"


def exact_text(value: Fraction) -> str:
    """`value` for people who check it: a decimal, or a fraction such as "1/3" where the decimals go on."""
    text = decimal_text(value)
    return text if Fraction(text) == value else str(value)
