"""Invoice path, rating: the derivation of an amount, step by step, for people.

Invariant: the exact amounts of a line's steps add up to the line before its one rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from billing.domain.decimals import decimal_text


@dataclass(frozen=True, slots=True)
class Step:
    """`quantity` at `unit_amount` gives `amount` (exact major units); `tier` counts from 1."""

    label: str
    quantity: Fraction
    unit_amount: Fraction = Fraction(0)
    amount: Fraction = Fraction(0)
    tier: int | None = None
    unit: str = ""

    @classmethod
    def of(
        cls, label: str, quantity: Fraction, unit_amount: Fraction, tier: int | None = None
    ) -> Step:
        """Quantity x unit amount."""
        return cls(label, quantity, unit_amount, quantity * unit_amount, tier)

    def as_strings(self) -> dict[str, str]:
        """For storing and showing: decimal text, at most 12 decimals; only what is told."""
        told = {
            "label": self.label,
            "quantity": decimal_text(self.quantity),
            "unit_amount": decimal_text(self.unit_amount) + self.unit,
            "amount": decimal_text(self.amount),
        }
        return told if self.tier is None else told | {"tier": str(self.tier)}

    def __str__(self) -> str:
        words = self.as_strings()
        place = f"tier {self.tier}, " if self.tier is not None else ""
        return (
            f"{place}{self.label}: {words['quantity']} x {words['unit_amount']} = {words['amount']}"
        )
