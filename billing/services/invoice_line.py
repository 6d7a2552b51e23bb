"""Invoice path, step 4: one line of an invoice, before it is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from uuid import UUID

from billing.domain.money import Money
from billing.domain.period import Period
from billing.domain.pricing import Rated
from billing.services.price_book import BookedPrice


class LineKind(StrEnum):
    """What a line bills: a flat price for a period, a metered one for a usage period, or what lacks to a bound.

    A true-up brings the lines of a usage period to the price's minimum or maximum, a commitment those of a billing
    period to what the plan promises.
    """

    FEE = "fee"
    USAGE = "usage"
    TRUE_UP = "true_up"
    COMMITMENT = "commitment"


@dataclass(frozen=True, slots=True)
class Line:
    """A line. `steps` are the derivation, as decimal text; `meter_id` is known while the line is computed.

    `dimensions` are the group's values by property, where the meter groups.
    """

    kind: LineKind
    description: str
    item_id: UUID
    price_id: UUID
    period: Period
    quantity: Fraction
    amount: Money
    steps: Sequence[Mapping[str, str]]
    meter_id: UUID | None = None
    dimensions: Mapping[str, str] = field(default_factory=dict)


def line_of(
    kind: LineKind, item_id: UUID, booked: BookedPrice, period: Period, rated: Rated, amount: Money
) -> Line:
    """The line of a booked price that was rated: its name, its quantity and its derivation."""
    row = booked.row
    steps = [step.as_strings() for step in rated.steps]
    return Line(
        kind, row.display_name, item_id, row.id, period, rated.quantity, amount, steps, row.meter_id
    )
