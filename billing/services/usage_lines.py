"""Invoice path, step 4: the usage lines of a draft.

Invariant: an amount is rate(all effective records of the period now) minus what finalized invoices carry for it; every
line is rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from queries.models import Invoice

from billing.domain.errors import BillingError
from billing.domain.money import Money
from billing.domain.pricing import adjustment
from billing.services.draft_facts import DraftFacts
from billing.services.invoice_line import Line, LineKind
from billing.services.period_rating import RatedPeriod
from billing.services.quantity_reads import key_of


def usage_lines(draft: Invoice, facts: DraftFacts) -> Iterator[Line]:
    """The lines of each usage period that the draft bills, at zero usage too. Raises why a period cannot be rated."""
    for row in facts.usage.get(draft.id, ()):
        rated = facts.rated[key_of(row)]
        if isinstance(rated, BillingError):
            raise rated
        finalized = facts.finalized.get(key_of(row))
        if finalized is None:
            yield from first_lines(rated)
        else:
            yield from _difference(rated, Money(finalized, draft.currency))


def first_lines(rated: RatedPeriod) -> Iterator[Line]:
    """A line for the price, or for each group value, and the true-up of their sum to the minimum or maximum."""
    row = rated.booked.row
    for group, one in rated.groups.items():
        dimensions = rated.dimensions(group)
        named = ", ".join(value or "none" for value in dimensions.values())
        yield Line(
            LineKind.USAGE,
            f"{row.display_name} ({named})" if named else row.display_name,
            rated.row.item_id,
            row.id,
            rated.period,
            one.quantity,
            one.amount,
            [step.as_strings() for step in one.steps],
            row.meter_id,
            dimensions,
        )
    if rated.true_up:
        bound = "up to the minimum" if rated.true_up.minor_units > 0 else "down to the maximum"
        yield _line(rated, LineKind.TRUE_UP, bound, Fraction(0), rated.true_up)


def _difference(rated: RatedPeriod, finalized: Money) -> Iterator[Line]:
    """What final invoices do not carry yet, or carry too much of; nothing when they agree."""
    amount = adjustment(rated.total, finalized)
    if amount is not None:
        yield _line(rated, LineKind.USAGE, "adjustment", rated.quantity, amount)


def _line(
    rated: RatedPeriod, kind: LineKind, about: str, quantity: Fraction, amount: Money
) -> Line:
    row = rated.booked.row
    return Line(
        kind,
        f"{row.display_name}: {about}",
        rated.row.item_id,
        row.id,
        rated.period,
        quantity,
        amount,
        (),
        row.meter_id if kind is LineKind.USAGE else None,
    )
