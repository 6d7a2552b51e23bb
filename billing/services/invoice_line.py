"""Invoice path, step 4: one line of an invoice, before it is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fractions import Fraction
from typing import Final
from uuid import UUID

from billing.domain.money import Money
from billing.domain.period import Period
from billing.domain.pricing import Rated
from billing.domain.totals import LineTotal
from billing.services.price_book import BookedPrice


class LineKind(StrEnum):
    """What a line bills: a flat price, a metered one for a usage period, what lacks to a bound, or what a person added.

    A true-up brings a fee, or the lines of a usage period, to the price's minimum or maximum, a commitment those of a
    billing period to what the plan promises. An adjustment is what a usage period that was billed before costs more or
    less.
    """

    FEE = "fee"
    USAGE = "usage"
    TRUE_UP = "true_up"
    COMMITMENT = "commitment"
    ADJUSTMENT = "adjustment"
    ITEM = "item"


# The lines that bill or adjust a usage period.
USAGE_KINDS: Final = (LineKind.USAGE, LineKind.ADJUSTMENT)


@dataclass(frozen=True, slots=True)
class EarlierAmount:
    """What a line of a final invoice bills for the same usage period."""

    invoice_id: UUID
    number: str
    line_number: int
    amount: Money
    waived: bool


@dataclass(frozen=True, slots=True)
class EarlierLine:
    """The same, with what an adjustment takes over: its discount, its invoice's discounts in percent, its tax."""

    billed: EarlierAmount
    discount: Money
    percents: tuple[Fraction, ...]
    tax_percent: Fraction


@dataclass(frozen=True, slots=True)
class Derivation:
    """What a line's amount was computed from: its exact value before it was rounded, the share of the full period that
    scales fees and bounds, and what earlier invoices carry for the same usage period."""

    exact: Fraction = Fraction(0)
    share: Fraction = Fraction(1)
    earlier: tuple[EarlierAmount, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """A line. `steps` are the computation as decimal text, `derivation` what it rests on; `meter_id` is known while the
    line is computed.

    A line that corrects or gives back an earlier one carries that one's discount in `own_discount_percent`, and its tax
    in `tax_percent`; of other lines both are None until `totaled`, which fills discount and tax in. A line without a
    price has the `default_tax_percent`; `fee_id` is the charge that a line of a fee makes, `gives_back` the one that a
    credit gives back. `dimensions` are the group's values by property, where the meter groups.
    """

    kind: LineKind
    description: str
    item_id: UUID | None
    price_id: UUID | None
    period: Period | None
    quantity: Fraction
    amount: Money
    steps: Sequence[Mapping[str, str]]
    derivation: Derivation = Derivation()
    meter_id: UUID | None = None
    dimensions: Mapping[str, str] = field(default_factory=dict)
    invoice_item_id: UUID | None = None
    own_discount_percent: Fraction | None = None
    tax_percent: Fraction | None = None
    default_tax_percent: Fraction = Fraction(0)
    fee_id: int | None = None
    gives_back: int | None = None
    discount: Money | None = None
    tax: Money | None = None

    @property
    def usage_key(self) -> tuple[UUID, Period]:
        """The item and the period that a line of usage bills."""
        assert self.item_id is not None and self.period is not None, "a line of usage has both"  # noqa: PT018
        return self.item_id, self.period

    def totaled(self, total: LineTotal, tax_percent: Fraction) -> Line:
        """The line with its discount and tax; what only its computation needed is gone."""
        return replace(
            self,
            own_discount_percent=None,
            default_tax_percent=Fraction(0),
            fee_id=None,
            gives_back=None,
            tax_percent=tax_percent,
            discount=total.discount,
            tax=total.tax,
        )


def line_of(
    kind: LineKind,
    item_id: UUID,
    booked: BookedPrice,
    period: Period,
    rated: Rated,
    *,
    share: Fraction,
) -> Line:
    """The line of a booked price that was rated: its name, its quantity and its derivation."""
    row = booked.row
    steps = [step.as_strings() for step in rated.steps]
    derivation = Derivation(rated.exact, share)
    return Line(
        kind,
        row.display_name,
        item_id,
        row.id,
        period,
        rated.quantity,
        rated.amount,
        steps,
        derivation,
        row.meter_id,
    )


def true_up_line(
    item_id: UUID, booked: BookedPrice, period: Period, true_up: Money, *, share: Fraction
) -> Line:
    """What the lines of a price lack to its minimum, or have above its maximum."""
    bound = "up to the minimum" if true_up.minor_units > 0 else "down to the maximum"
    return Line(
        LineKind.TRUE_UP,
        f"{booked.row.display_name}: {bound}",
        item_id,
        booked.row.id,
        period,
        Fraction(0),
        true_up,
        (),
        Derivation(true_up.exact, share),
    )
