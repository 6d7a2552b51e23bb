"""Invoice path, rating: a price, that is a model with its numbers, bounds and quantity rounding.

Invariant: a price is never edited, only superseded; what `parse_price` accepts can be rated.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from billing.domain.decimals import Rounding, round_exact
from billing.domain.errors import InvalidPrice
from billing.domain.pricing.charges import Charge, Percentage


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
