"""Invoice path: credit notes, the only correction of an open or paid invoice besides void.

Invariant: the notes of a line never exceed it, and notes that use a line up take exactly its tax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from billing.domain.errors import CreditExceedsLine, Invalid
from billing.domain.money import Money, total_of
from billing.domain.totals import apply_credit


@dataclass(frozen=True, slots=True)
class CreditableLine:
    """A finalized line: its net after discounts, its tax, and what earlier notes took of both."""

    net: Money
    tax: Money
    credited: Money
    credited_tax: Money

    @property
    def left(self) -> Money:
        """What may still be credited, before tax."""
        return self.net - self.credited


@dataclass(frozen=True, slots=True)
class CreditedLine:
    """What one note takes from one line."""

    line: int
    net: Money
    tax: Money


@dataclass(frozen=True, slots=True)
class CreditNote:
    """A note: it lowers the amount due first, the rest goes to the credit balance."""

    lines: tuple[CreditedLine, ...]
    net: Money
    tax: Money
    lowers_due: Money
    to_credit_balance: Money

    @property
    def total(self) -> Money:
        """Net and tax."""
        return self.net + self.tax


def credit_note(
    lines: Sequence[CreditableLine], amounts: Mapping[int, Money], amount_due: Money
) -> CreditNote:
    """Credit `amounts` (line index to an amount before tax) of an invoice.

    Raises CreditExceedsLine, or Invalid for a line that is not there or an amount not above zero.
    """
    if not amounts:
        raise Invalid.field("lines", "name at least one line and its amount.")
    taken = tuple(_credit(lines, index, amounts[index]) for index in sorted(amounts))
    net = total_of((line.net for line in taken), amount_due.currency)
    tax = total_of((line.tax for line in taken), amount_due.currency)
    lowers = apply_credit(net + tax, amount_due)
    return CreditNote(taken, net, tax, lowers, net + tax - lowers)


def unused_time_credit(
    amount: Fraction, tax_percent: Fraction, unused: Fraction, currency: str
) -> tuple[Money, Money]:
    """Net and tax for the unused share of a period, each rounded once from the exact value."""
    net = amount * unused
    return Money.of_exact(net, currency), Money.of_exact(net * tax_percent / 100, currency)


def _credit(lines: Sequence[CreditableLine], index: int, amount: Money) -> CreditedLine:
    path = f"lines[{index}]"
    if not 0 <= index < len(lines):
        raise Invalid.field(path, f"the invoice has {len(lines)} lines, numbered from 0.")
    if amount.minor_units <= 0:
        raise Invalid.field(path, "the amount must be above zero.")
    line = lines[index]
    if line.left < amount:
        raise CreditExceedsLine(
            f"Line {index} has {line.left} left to credit, not {amount}; lower the amount.",
            metadata={"line": str(index), "left": line.left.to_text()},
        )
    # Tax in proportion to all that was credited so far, so that rounding never piles up.
    share = Fraction((line.credited + amount).minor_units, line.net.minor_units)
    tax = Money.of_exact(line.tax.exact * share, amount.currency) - line.credited_tax
    return CreditedLine(index, amount, tax)
