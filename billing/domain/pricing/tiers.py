"""Invoice path, rating: graduated and volume prices over tiers.

Invariant: bounds are inclusive upper bounds, so every quantity, fractional ones too, falls in
exactly one tier; zero and below fall in tier 1. Graduated amounts are continuous but for the flat
amounts and begun packages at a bound.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from billing.domain.errors import InvalidPrice, Violation
from billing.domain.pricing.charges import ZERO, Usage, packages
from billing.domain.pricing.steps import Step

TIERS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Tier:
    """Quantities up to and with `up_to`; None is without end. `percent` is of the quantity."""

    up_to: Fraction | None
    unit_amount: Fraction = ZERO
    flat_amount: Fraction = ZERO
    percent: Fraction = ZERO
    package_size: Fraction | None = None

    def steps(self, quantity: Fraction, number: int) -> list[Step]:
        """`quantity` of this tier, and its flat amount. Packages round up within the tier."""
        steps = []
        if self.flat_amount:
            steps.append(Step.of("flat amount", Fraction(1), self.flat_amount, number))
        if self.package_size is not None:
            count = Fraction(packages(quantity, self.package_size))
            steps.append(Step.of("packages", count, self.unit_amount, number))
        elif self.unit_amount or not self.percent:
            steps.append(Step.of("units", quantity, self.unit_amount, number))
        if self.percent:
            part = quantity * self.percent / 100
            steps.append(Step("rate", quantity, self.percent, part, number, "%"))
        return steps


def check_tiers(tiers: Sequence[Tier], path: str = "tiers") -> None:
    """Refuse what would leave a quantity in no tier or in two, naming each wrong bound."""
    if not 1 <= len(tiers) <= TIERS_MAX:
        raise InvalidPrice.field(path, f"give 1 to {TIERS_MAX} tiers.")
    wrong: list[Violation] = []
    below = ZERO
    for index, tier in enumerate(tiers):
        where = f"{path}[{index}].up_to"
        last = index == len(tiers) - 1
        if tier.up_to is None:
            if not last:
                wrong.append(Violation(where, 'only the last tier is open (empty, or "inf").'))
            continue
        if tier.up_to <= below:
            wrong.append(Violation(where, "must be above the tier before it, and above zero."))
        below = max(below, tier.up_to)
        if last:
            wrong.append(
                Violation(where, 'the last tier is open; leave its bound empty, or write "inf".')
            )
    if wrong:
        raise InvalidPrice(f"{wrong[0].path}: {wrong[0].description}", violations=wrong)


def _bounds(tiers: Sequence[Tier]) -> tuple[Fraction, ...]:
    """The upper bounds of all tiers but the last, which is open."""
    return tuple(tier.up_to for tier in tiers[:-1] if tier.up_to is not None)


@dataclass(frozen=True, slots=True)
class Graduated:
    """Each tier prices the part of the quantity that lies in it, and charges its flat amount once
    entered (quantity above its lower bound); tier 1's also at zero."""

    tiers: tuple[Tier, ...]

    def steps(self, usage: Usage) -> list[Step]:
        """Tier by tier."""
        quantity, lower = usage.quantity, ZERO
        steps: list[Step] = []
        for number, tier in enumerate(self.tiers, 1):
            if number > 1 and quantity <= lower:
                break
            upper = quantity if tier.up_to is None else min(quantity, tier.up_to)
            steps.extend(tier.steps(upper - lower, number))
            if tier.up_to is not None:
                lower = tier.up_to
        return steps


@dataclass(frozen=True, slots=True)
class Volume:
    """The tier that the whole quantity reaches prices all of it; only its flat amount counts."""

    tiers: tuple[Tier, ...]

    def steps(self, usage: Usage) -> list[Step]:
        """The one tier reached."""
        # A quantity equal to a bound belongs to the tier below it: the bound is inclusive.
        index = bisect_left(_bounds(self.tiers), usage.quantity)
        return self.tiers[index].steps(usage.quantity, index + 1)
