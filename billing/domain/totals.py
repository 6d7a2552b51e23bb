"""Invoice path: from lines to the amount due.

Invariant: subtotal - discount + tax = total + what goes to the credit balance; discounts and tax
add up line by line; no total is negative. Order: lines and true-ups, discounts, tax, credit
balance, amount due (design section 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from billing.domain.errors import Invalid
from billing.domain.money import Money, largest_remainder, total_of

LINES_MAX: Final = 10_000
DISCOUNTS_MAX: Final = 20
_ZERO: Final = Fraction(0)


@dataclass(frozen=True, slots=True)
class Line:
    """A rounded line. An adjustment has `own_discount_percent`, that of the period it corrects:
    the discounts of this invoice pass it over."""

    amount: Money
    tax_percent: Fraction = _ZERO
    own_discount_percent: Fraction | None = None


@dataclass(frozen=True, slots=True)
class PercentDiscount:
    """So many percent of every line."""

    percent: Fraction

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise Invalid.field("percent", "give a percentage from 0 to 100.")


@dataclass(frozen=True, slots=True)
class AmountDiscount:
    """So much off the sum of the lines, never more than there is."""

    amount: Money

    def __post_init__(self) -> None:
        if self.amount.minor_units < 0:
            raise Invalid.field("amount", "a discount must not be negative.")


Discount = PercentDiscount | AmountDiscount


@dataclass(frozen=True, slots=True)
class LineTotal:
    """A line with its discount (positive: it lowers) and its tax."""

    amount: Money
    discount: Money
    tax: Money

    @property
    def net(self) -> Money:
        """The discounted line, before tax."""
        return self.amount - self.discount


@dataclass(frozen=True, slots=True)
class Totals:
    """An invoice's sums. `to_credit_balance` is what a negative sum gives the customer.

    `by_discount` is what each discount took, in their order; own discounts of lines come on top.
    """

    lines: tuple[LineTotal, ...]
    by_discount: tuple[Money, ...]
    subtotal: Money
    discount: Money
    tax: Money
    total: Money
    to_credit_balance: Money
    credit_applied: Money

    @property
    def amount_due(self) -> Money:
        """What is left to pay."""
        return self.total - self.credit_applied


def invoice_totals(
    lines: Sequence[Line],
    discounts: Sequence[Discount],
    credit_available: Money,
) -> Totals:
    """All sums of an invoice in the currency of `credit_available`, the customer's balance.

    Each discount takes from what the earlier ones left, and is rounded once per line; tax is
    computed from the rounded, discounted line and rounded once.
    """
    if len(lines) > LINES_MAX or len(discounts) > DISCOUNTS_MAX:
        raise Invalid(
            f"An invoice has at most {LINES_MAX} lines and {DISCOUNTS_MAX} discounts; split it."
        )
    currency = credit_available.currency
    nets, taken = _discounted(lines, discounts, currency)
    totals = tuple(
        LineTotal(line.amount, line.amount - net, tax_of(net, line.tax_percent))
        for line, net in zip(lines, nets, strict=True)
    )
    subtotal = total_of((line.amount for line in totals), currency)
    discount = total_of((line.discount for line in totals), currency)
    tax = total_of((line.tax for line in totals), currency)
    balance = subtotal - discount + tax
    nothing = Money.zero(currency)
    total = max(balance, nothing)
    return Totals(
        totals,
        taken,
        subtotal,
        discount,
        tax,
        total,
        total - balance,
        apply_credit(total, credit_available),
    )


def checked_tax(percent: Decimal | None, *, path: str = "tax_percent") -> Decimal | None:
    """A tax as it may be stored: 0 to 100 percent, or none."""
    if percent is not None and not 0 <= percent <= 100:
        raise Invalid.field(path, "give a percentage from 0 to 100.")
    return percent


def tax_of(net: Money, percent: Fraction) -> Money:
    """The tax on a rounded, discounted line, rounded once."""
    if not percent:
        return Money.zero(net.currency)
    return Money.of_exact(net.exact * percent / 100, net.currency)


def apply_credit(total: Money, available: Money) -> Money:
    """How much of the credit balance an invoice uses: no more than either has."""
    return max(min(total, available), Money.zero(total.currency))


def split_payment(amount_due: Money, payment: Money) -> tuple[Money, Money]:
    """A recorded payment: what lowers the amount due, and the excess for the credit balance."""
    if payment.minor_units <= 0:
        raise Invalid.field("amount", "a payment must be above zero.")
    applied = apply_credit(amount_due, payment)
    return applied, payment - applied


def commitment_true_up(
    commitment: Fraction, usage_and_fees: Money, *, scale: Fraction = Fraction(1)
) -> Money:
    """Commitment - sum of the period's usage and fee lines before discounts, if positive.

    `commitment` is exact major units of a full period; a partial one scales it like a minimum.
    """
    promised = Money.of_exact(commitment * scale, usage_and_fees.currency)
    return max(promised - usage_and_fees, Money.zero(usage_and_fees.currency))


def _discounted(
    lines: Sequence[Line], discounts: Sequence[Discount], currency: str
) -> tuple[list[Money], tuple[Money, ...]]:
    """Each line after all discounts, and what each discount took."""
    shared = [i for i, line in enumerate(lines) if line.own_discount_percent is None]
    nets = [line.amount for line in lines]
    taken = []
    for discount in discounts:
        parts = _spread(discount, [nets[i] for i in shared], currency)
        taken.append(total_of(parts, currency))
        for i, part in zip(shared, parts, strict=True):
            nets[i] -= part
    for i, line in enumerate(lines):
        if line.own_discount_percent is not None:
            nets[i] -= tax_of(line.amount, line.own_discount_percent)
    return nets, tuple(taken)


def _spread(discount: Discount, nets: Sequence[Money], currency: str) -> list[Money]:
    """One discount over the lines by largest remainder, in proportion to what they are.

    Negative lines take their (negative) part, so that a credit and its debit shrink alike.
    """
    base = total_of(nets, currency)
    if isinstance(discount, PercentDiscount):
        whole = tax_of(base, discount.percent)
        shares = [Fraction(net.minor_units) * discount.percent / 100 for net in nets]
    else:
        whole = apply_credit(base, discount.amount)
        if not whole:
            return [whole] * len(nets)
        rate = Fraction(whole.minor_units, base.minor_units)
        shares = [net.minor_units * rate for net in nets]
    # Spread the size and give back the sign, so that opposite invoices have opposite discounts.
    sign = -1 if base.minor_units < 0 else 1
    units = largest_remainder([sign * share for share in shares], sign * whole.minor_units)
    return [Money(sign * unit, currency) for unit in units]
