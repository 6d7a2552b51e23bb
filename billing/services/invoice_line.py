"""Invoice path, step 4: one line of an invoice, before it is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fractions import Fraction
from uuid import UUID

from billing.domain.money import Money
from billing.domain.period import Period
from billing.domain.pricing import Rated
from billing.domain.totals import LineTotal
from billing.services.price_book import BookedPrice


class LineKind(StrEnum):
    """What a line bills: a flat price, a metered one for a usage period, what lacks to a bound, or what a person added.

    A true-up brings the lines of a usage period to the price's minimum or maximum, a commitment those of a billing
    period to what the plan promises.
    """

    FEE = "fee"
    USAGE = "usage"
    TRUE_UP = "true_up"
    COMMITMENT = "commitment"
    ITEM = "item"


@dataclass(frozen=True, slots=True)
class Line:
    """A line. `steps` are the derivation, as decimal text; `meter_id` is known while the line is computed.

    A line that corrects or gives back an earlier one carries that one's discount in `own_discount_percent`, and its tax
    in `tax_percent`; of other lines both are None until `totaled`, which fills discount and tax in. `dimensions` are
    the group's values by property, where the meter groups.
    """

    kind: LineKind
    description: str
    item_id: UUID | None
    price_id: UUID | None
    period: Period | None
    quantity: Fraction
    amount: Money
    steps: Sequence[Mapping[str, str]]
    meter_id: UUID | None = None
    dimensions: Mapping[str, str] = field(default_factory=dict)
    invoice_item_id: UUID | None = None
    own_discount_percent: Fraction | None = None
    tax_percent: Fraction | None = None
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
            tax_percent=tax_percent,
            discount=total.discount,
            tax=total.tax,
        )


def line_of(
    kind: LineKind, item_id: UUID, booked: BookedPrice, period: Period, rated: Rated, amount: Money
) -> Line:
    """The line of a booked price that was rated: its name, its quantity and its derivation."""
    row = booked.row
    steps = [step.as_strings() for step in rated.steps]
    return Line(
        kind, row.display_name, item_id, row.id, period, rated.quantity, amount, steps, row.meter_id
    )
