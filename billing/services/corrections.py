"""Invoice path, step 4: what a line takes over that corrects what final invoices carry.

Invariant: a correction is the difference of amounts before discount and tax, and carries the discount and the tax of
what it corrects: so nothing comes back but what was billed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from queries.commitments import ListEarlierTrueUpsRow
from queries.invoices import ListEarlierLinesRow

from billing.domain.money import Money, total_of
from billing.domain.pricing import adjustment
from billing.services.invoice_line import EarlierAmount, EarlierLine, Line


def earlier_line(row: ListEarlierLinesRow | ListEarlierTrueUpsRow) -> EarlierLine:
    """A line of a final invoice as corrections need it."""
    amount = Money(row.amount, row.currency)
    billed = EarlierAmount(row.invoice_id, row.number, row.line_number, amount, row.waived)
    percents = tuple(Fraction(percent) for percent in row.percents)
    discount = Money(row.discount, row.currency)
    return EarlierLine(billed, discount, percents, Fraction(row.tax_percent))


def left_to_bill(wanted: Money, earlier: Sequence[EarlierLine]) -> Money | None:
    """What final invoices lack, or carry too much of; None when they agree."""
    amounts = [line.billed for line in earlier]
    billed = total_of((one.amount for one in amounts if not one.waived), wanted.currency)
    waived = total_of((one.amount for one in amounts if one.waived), wanted.currency)
    return adjustment(wanted, billed, waived)


def correcting(line: Line, earlier: Sequence[EarlierLine]) -> Line:
    """The line with the discount and the tax of what it corrects; as it is when that is nothing."""
    if not earlier:
        return line
    return replace(
        line,
        own_discount_percent=_own_discount(line.amount, earlier),
        tax_percent=earlier[0].tax_percent,
    )


def _own_discount(difference: Money, earlier: Sequence[EarlierLine]) -> Fraction:
    """The discount of the period that is corrected, in percent.

    More usage gets what its invoice gave in percent; an amount that was given off it stays as it is. What is given back
    is given back as it was billed: with all that was taken off it. Of waived lines nothing is given back, so neither
    their amounts nor their discounts have a part in it.
    """
    if difference.minor_units < 0:
        given_back = [line for line in earlier if not line.billed.waived]
        billed = sum(line.billed.amount.minor_units for line in given_back)
        taken_off = sum(line.discount.minor_units for line in given_back)
        return Fraction(100 * taken_off, billed) if billed else Fraction(0)
    left = Fraction(1)
    for percent in earlier[0].percents:
        left *= 1 - percent / 100
    return 100 * (1 - left)
