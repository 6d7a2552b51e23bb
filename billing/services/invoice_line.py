"""Invoice path, step 4: one line of an invoice, before it is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from uuid import UUID

from billing.domain.money import Money
from billing.domain.period import Period
from billing.domain.pricing import Rated
from billing.services.price_book import BookedPrice


class LineKind(StrEnum):
    """What a line bills: a flat price for a period, a metered one for a usage period, or what a billed one lacked."""

    FEE = "fee"
    USAGE = "usage"
    ADJUSTMENT = "adjustment"


@dataclass(frozen=True, slots=True)
class EarlierAmount:
    """What a line of a final invoice bills for the same usage period."""

    invoice_id: UUID
    number: str
    line_number: int
    amount: Money
    waived: bool


@dataclass(frozen=True, slots=True)
class Derivation:
    """What a line's amount was computed from: its exact value before it was rounded, the share of the full period that
    scales fees and bounds, and what earlier invoices carry for the same usage period."""

    exact: Fraction
    share: Fraction = Fraction(1)
    earlier: tuple[EarlierAmount, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """A line. `steps` are the computation as decimal text, `derivation` what it rests on; `meter_id` is known while the
    line is computed."""

    kind: LineKind
    description: str
    item_id: UUID
    price_id: UUID
    period: Period
    quantity: Fraction
    amount: Money
    steps: Sequence[Mapping[str, str]]
    derivation: Derivation
    meter_id: UUID | None = None


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
