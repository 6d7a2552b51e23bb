"""Invoice path, rating: from usage to the rounded line, its true-up and their derivation.

Invariant: exact quantity x exact price, rounded once per line; the true-up is a line of its own,
so that the lines sum to the minimum or maximum; progressive billing is path independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from billing.domain.money import Money, total_of
from billing.domain.pricing.charges import Usage
from billing.domain.pricing.price import Price
from billing.domain.pricing.steps import Step

FULL: Final = Fraction(1)


@dataclass(frozen=True, slots=True)
class Rated:
    """One line and its true-up. `exact` is the line in major units before its rounding."""

    amount: Money
    true_up: Money
    exact: Fraction
    quantity: Fraction
    steps: tuple[Step, ...]

    @property
    def total(self) -> Money:
        """What the price costs: line and true-up."""
        return self.amount + self.true_up


@dataclass(frozen=True, slots=True)
class RatedGroups:
    """One line for each group value, and one true-up of their sum."""

    lines: Mapping[tuple[str, ...], Rated]
    true_up: Money
    total: Money


@dataclass(frozen=True, slots=True)
class Progressive:
    """A part of a running period: `total` so far = `already` billed + `this` amount."""

    already: Money
    this: Money
    total: Money
    steps: tuple[Step, ...]


def rate(price: Price, usage: Usage, *, scale: Fraction = FULL, licensed: bool = False) -> Rated:
    """The line for `usage`, with its true-up.

    `scale` is the period's share of its full nominal period: it shrinks minimum and maximum, and
    the amount itself of fees (flat prices, and any price of a `licensed` quantity). Tiers, free
    units and packages never scale (design section 6).
    """
    quantity, steps, exact = _derive(price, usage, scale if licensed or price.scales else FULL)
    amount = Money.of_exact(exact, price.currency)
    extra = true_up(price, amount, scale=scale)
    return Rated(amount, extra, exact, quantity, tuple(steps))


def rate_groups(
    price: Price, usage: Mapping[tuple[str, ...], Usage], *, scale: Fraction = FULL
) -> RatedGroups:
    """A line for each group value in order; minimum and maximum hold for their sum."""
    # The groups of a price without bounds: their true-up is the group's, not theirs.
    bounded = price.minimum is not None or price.maximum is not None
    unbounded = replace(price, minimum=None, maximum=None) if bounded else price
    lines = {key: rate(unbounded, usage[key]) for key in sorted(usage)}
    lines_total = total_of((line.amount for line in lines.values()), price.currency)
    extra = true_up(price, lines_total, scale=scale)
    return RatedGroups(lines, extra, lines_total + extra)


def true_up(price: Price, usage_amount: Money, *, scale: Fraction = FULL) -> Money:
    """The rounded, scaled minimum or maximum minus the rounded usage: positive or negative.

    Zero when the usage lies between them.
    """
    if price.minimum is None and price.maximum is None:
        return Money.zero(price.currency)
    bounded = usage_amount
    if price.minimum is not None:
        bounded = max(bounded, Money.of_exact(price.minimum * scale, price.currency))
    if price.maximum is not None:
        bounded = min(bounded, Money.of_exact(price.maximum * scale, price.currency))
    return bounded - usage_amount


def rate_progressive(
    price: Price, already: Usage | None, now: Usage, *, scale: Fraction = FULL
) -> Progressive:
    """This amount = rate(all so far) - rate(already billed), both rounded and bounded.

    `now` is all usage so far, not the increment. `already` None: nothing of the period was billed
    yet, not even a flat amount at zero usage.
    """
    total = rate(price, now, scale=scale)
    before = Money.zero(price.currency)
    if already is not None:
        before = rate(price, already, scale=scale).total
    return Progressive(before, total.total - before, total.total, total.steps)


def adjustment(rated_now: Money, billed: Money, waived: Money) -> Money | None:
    """What a line must still bill of a period; None when nothing: a zero adjustment makes no line.

    `billed` is what finalized invoices carry for it that somebody owes or paid, `waived` what waived ones carry.
    Of a waived amount, which nobody paid for, nothing is given back: usage has to grow beyond it before it counts.
    """
    owed = rated_now
    if waived:
        owed = max(rated_now - waived, Money.zero(rated_now.currency))
    difference = owed - billed
    return difference if difference else None


def _derive(price: Price, usage: Usage, scale: Fraction) -> tuple[Fraction, list[Step], Fraction]:
    """The quantity priced, the steps, and their exact sum."""
    steps = []
    if price.quantity_rounding is not None:
        steps = [price.quantity_rounding.step(usage.quantity)]
        usage = replace(usage, quantity=steps[0].quantity)
    steps += price.charge.steps(usage)
    exact = steps[0].amount
    for step in steps[1:]:
        exact += step.amount
    if scale != 1:
        # The part that the full fee loses is a step as well, so that the steps still add up.
        steps.append(Step("partial period", scale - 1, exact, exact * (scale - 1)))
        exact *= scale
    return usage.quantity, steps, exact
