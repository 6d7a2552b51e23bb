"""Invoice path, rating: a price, that is a model with its numbers, bounds and quantity rounding.

Invariant: a price is never edited, only superseded; what `parse_price` accepts can be rated.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

from billing.domain.decimals import Rounding, decimal_text, round_exact
from billing.domain.errors import InvalidPrice
from billing.domain.pricing.charges import Charge, Percentage
from billing.domain.pricing.steps import Step

# How each rounds, in words.
_MODES: Final = {
    Rounding.HALF_UP: "half away from zero",
    Rounding.HALF_DOWN: "half towards zero",
    Rounding.HALF_EVEN: "half to even",
    Rounding.UP: "away from zero",
    Rounding.DOWN: "towards zero",
    Rounding.CEILING: "up",
    Rounding.FLOOR: "down",
}


class PriceModel(StrEnum):
    """How a price turns a quantity into an amount."""

    FLAT = "flat"
    PER_UNIT = "per_unit"
    GRADUATED = "graduated"
    VOLUME = "volume"
    PACKAGE = "package"
    PERCENTAGE = "percentage"
    GRADUATED_PERCENTAGE = "graduated_percentage"
    MATRIX = "matrix"


class BillingTiming(StrEnum):
    """Whether a price is billed at the start of its period or at the end."""

    IN_ADVANCE = "in_advance"
    IN_ARREARS = "in_arrears"


@dataclass(frozen=True, slots=True)
class QuantityRounding:
    """The quantity divided, then rounded, before anything is priced."""

    mode: Rounding
    decimals: int = 0
    divide_by: Fraction = Fraction(1)

    def apply(self, quantity: Fraction) -> Fraction:
        """ "Per 5 users or part": divide_by 5, up, 0 decimals; 7 users are 2."""
        return round_exact(quantity / self.divide_by, self.decimals, self.mode)

    def step(self, quantity: Fraction) -> Step:
        """The quantity that is priced, with how it comes from the one that was measured; it costs nothing itself."""
        divided = f" / {decimal_text(self.divide_by)}" if self.divide_by != 1 else ""
        label = f"{decimal_text(quantity)}{divided}, rounded {_MODES[self.mode]} to {self.decimals} decimals"
        return Step(label, self.apply(quantity))


@dataclass(frozen=True, slots=True)
class Price:
    """One price version. Minimum and maximum are exact major units of a full nominal period."""

    model: PriceModel
    currency: str
    charge: Charge
    minimum: Fraction | None = None
    maximum: Fraction | None = None
    quantity_rounding: QuantityRounding | None = None

    @property
    def scales(self) -> bool:
        """Whether the price itself shrinks with a partial period, as only fees do."""
        return self.model is PriceModel.FLAT

    @property
    def needs_events(self) -> bool:
        """Whether a sum is not enough: the events are wanted in time order, or what of them is free."""
        return isinstance(self.charge, Percentage) and self.charge.has_allowance


def billing_timing(
    model: PriceModel, *, metered: bool, chosen: BillingTiming | None = None
) -> BillingTiming:
    """When a price is billed: in arrears always for metered; fees in advance unless chosen."""
    if metered:
        if chosen is BillingTiming.IN_ADVANCE:
            raise InvalidPrice.field("billing_timing", "a metered price is billed in arrears.")
        return BillingTiming.IN_ARREARS
    return chosen or BillingTiming.IN_ADVANCE
