"""Invoice path: credit notes, the only correction of an open or paid invoice besides void.

Invariant: the notes of a line never exceed it, those of an invoice never exceed its total, and notes that use a line up
take exactly its tax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from billing.domain.errors import CreditExceedsInvoice, CreditExceedsLine, Invalid
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

    number: int
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
    lines: Mapping[int, CreditableLine], amounts: Mapping[int, Money], *, total: Money, due: Money
) -> CreditNote:
    """Credit `amounts` (before tax, by line number) of an invoice of `total`, of which `due` is to be paid.

    Raises CreditExceedsLine, CreditExceedsInvoice (negative lines lower what an invoice is), or Invalid for a line that
    is not there or an amount not above zero.
    """
    if not amounts:
        raise Invalid.field("lines", "name at least one line and its amount.")
    taken = tuple(_credit(lines, number, amounts[number]) for number in sorted(amounts))
    net = total_of((line.net for line in taken), due.currency)
    tax = total_of((line.tax for line in taken), due.currency)
    earlier = total_of((line.credited + line.credited_tax for line in lines.values()), due.currency)
    if total - earlier < net + tax:
        raise CreditExceedsInvoice(
            f"The invoice has {total - earlier} left to credit, not {net + tax}; lower the amounts.",
            metadata={"left": (total - earlier).to_text()},
        )
    lowers = apply_credit(net + tax, due)
    return CreditNote(taken, net, tax, lowers, net + tax - lowers)


def unused_time_credit(
    amount: Fraction, tax_percent: Fraction, unused: Fraction, currency: str
) -> tuple[Money, Money]:
    """Net and tax for the unused share of a period, each rounded once from the exact value."""
    net = amount * unused
    return Money.of_exact(net, currency), Money.of_exact(net * tax_percent / 100, currency)


def _credit(lines: Mapping[int, CreditableLine], number: int, amount: Money) -> CreditedLine:
    path = f"lines[{number}]"
    line = lines.get(number)
    if line is None:
        raise Invalid.field(path, f"the invoice has {len(lines)} lines, numbered from 1.")
    if amount.minor_units <= 0:
        raise Invalid.field(path, "the amount must be above zero.")
    if line.left < amount:
        raise CreditExceedsLine(
            f"Line {number} has {line.left} left to credit, not {amount}; lower the amount.",
            metadata={"line": str(number), "left": line.left.to_text()},
        )
    # Tax in proportion to all that was credited so far, so that rounding never piles up.
    share = Fraction((line.credited + amount).minor_units, line.net.minor_units)
    tax = Money.of_exact(line.tax.exact * share, amount.currency) - line.credited_tax
    return CreditedLine(number, amount, tax)
