"""Every path: money, whole minor units of one currency.

Invariant: parts add up to the whole, and currencies never mix. Rounding happens in one place,
`Money.of_exact`, once per invoice line (design section 6).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from billing.domain.currency import EXPONENTS, exponent_of
from billing.domain.decimals import decimal_text, parse_exact, round_half_away
from billing.domain.errors import AmountOutOfRange, CurrencyMismatch, Invalid

# The contract's int64.
MINOR_UNITS_MAX: Final = 2**63 - 1
_SCALES: Final = {code: 10**exponent for code, exponent in EXPONENTS.items()}


@dataclass(frozen=True, slots=True)
class Money:
    """An amount such as 1234 EUR cents. Negative amounts are credits."""

    minor_units: int
    currency: str

    def __post_init__(self) -> None:
        if self.currency not in EXPONENTS:
            exponent_of(self.currency)
        if not -MINOR_UNITS_MAX <= self.minor_units <= MINOR_UNITS_MAX:
            raise AmountOutOfRange(
                f"The amount exceeds {MINOR_UNITS_MAX} minor units of {self.currency};"
                " lower the price or the quantity."
            )

    @classmethod
    def zero(cls, currency: str) -> Money:
        """Nothing, in that currency."""
        return cls(0, currency)

    @classmethod
    def of_exact(cls, major_units: Fraction, currency: str) -> Money:
        """The one rounding: exact major units to minor units, a half away from zero."""
        scale = _SCALES.get(currency)
        if scale is None:
            scale = 10 ** exponent_of(currency)
        return cls(round_half_away(major_units, scale=scale), currency)

    @classmethod
    def parse(cls, text: object, currency: str, *, path: str = "amount") -> Money:
        """Major units as text, "12.34"; more decimals than the currency has are refused."""
        exponent = exponent_of(currency)
        return cls.of_exact(parse_exact(text, path=path, max_decimals=exponent), currency)

    def __add__(self, other: Money) -> Money:
        self._same_currency(other)
        return Money(self.minor_units + other.minor_units, self.currency)

    def __sub__(self, other: Money) -> Money:
        self._same_currency(other)
        return Money(self.minor_units - other.minor_units, self.currency)

    def __neg__(self) -> Money:
        return Money(-self.minor_units, self.currency)

    def __lt__(self, other: Money) -> bool:
        self._same_currency(other)
        return self.minor_units < other.minor_units

    def __le__(self, other: Money) -> bool:
        return not other < self

    def __bool__(self) -> bool:
        return self.minor_units != 0

    @property
    def exact(self) -> Fraction:
        """The amount in major units."""
        return Fraction(self.minor_units, _SCALES[self.currency])

    def split(self, weights: Sequence[int | Fraction]) -> list[Money]:
        """Share out by weight. Leftover units go to the largest remainders, earlier parts first.

        Weights are not negative, and one is above zero. split(-x) = -split(x), part by part.
        """
        total = sum(weights)
        if total <= 0 or any(weight < 0 for weight in weights):
            raise Invalid.field("weights", "give weights of zero or more, one of them above zero.")
        size = Fraction(abs(self.minor_units))
        shares = [size * weight / total for weight in weights]
        sign = -1 if self.minor_units < 0 else 1
        return [
            Money(sign * units, self.currency)
            for units in largest_remainder(shares, abs(self.minor_units))
        ]

    def to_text(self) -> str:
        """Major units with all of the currency's decimals, "12.30"."""
        exponent = EXPONENTS[self.currency]
        return decimal_text(self.exact, decimals=exponent, at_least=exponent)

    def __str__(self) -> str:
        return f"{self.to_text()} {self.currency}"

    def _same_currency(self, other: Money) -> None:
        if self.currency != other.currency:
            raise CurrencyMismatch(
                f"{self.currency} and {other.currency} cannot be combined; use one currency.",
                metadata={"expected": self.currency, "actual": other.currency},
            )


def total_of(amounts: Iterable[Money], currency: str) -> Money:
    """The sum, zero for none; every amount must be in `currency`."""
    units = 0
    for amount in amounts:
        if amount.currency != currency:
            amount._same_currency(Money.zero(currency))
        units += amount.minor_units
    return Money(units, currency)


def largest_remainder(shares: Sequence[Fraction], total: int) -> list[int]:
    """Whole numbers near `shares` that add up to `total`, which is their sum rounded either way.

    Each is its share rounded down or up; ups go to the largest remainders, earlier ones first.
    """
    units = [share.numerator // share.denominator for share in shares]
    left = total - sum(units)
    if not 0 <= left <= len(units):
        raise Invalid.field("total", f"{total} is not the rounded sum of the shares.")
    by_remainder = sorted(range(len(units)), key=lambda i: (units[i] - shares[i], i))
    for i in by_remainder[:left]:
        units[i] += 1
    return units
