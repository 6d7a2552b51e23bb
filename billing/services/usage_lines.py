"""Invoice path, step 4: the usage lines of a draft, and its adjustments of what was billed before.

Invariant: an amount is rate(all effective records of the period now) minus what finalized invoices carry for it,
however often it is billed; every line is rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from queries.models import Invoice, UsagePeriod

from billing.domain.errors import BillingError
from billing.services.corrections import correcting, left_to_bill
from billing.services.draft_facts import DraftFacts
from billing.services.invoice_line import Derivation, EarlierLine, Line, LineKind, true_up_line
from billing.services.period_rating import RatedPeriod
from billing.services.quantity_reads import key_of


def usage_lines(draft: Invoice, facts: DraftFacts) -> Iterator[Line]:
    """The lines of each usage period that the draft bills, at zero usage too. Raises why a period cannot be rated.

    A period that a final invoice carries an amount for, as after a void, gets the difference alone.
    """
    for row in facts.periods[draft.id].own:
        earlier = facts.earlier.get(key_of(row), ())
        rated = _rated(row, facts)
        yield from adjustments(rated, earlier) if earlier else first_lines(rated)


def adjustment_lines(draft: Invoice, facts: DraftFacts) -> Iterator[Line]:
    """The differences of the periods billed before that the draft adjusts. Raises why a period cannot be rated."""
    for row in facts.periods[draft.id].adjusted:
        yield from adjustments(_rated(row, facts), facts.earlier.get(key_of(row), ()))


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
            Derivation(one.exact, rated.share),
            row.meter_id,
            dimensions,
        )
    if rated.true_up:
        yield true_up_line(
            rated.row.item_id, rated.booked, rated.period, rated.true_up, share=rated.share
        )


def adjustments(rated: RatedPeriod, earlier: Sequence[EarlierLine]) -> Iterator[Line]:
    """One line, maybe a negative one, of what final invoices lack or carry too much of; none when they agree.

    It has the discount and the tax of what it corrects.
    """
    difference = left_to_bill(rated.total, earlier)
    if difference is None:
        return
    row = rated.booked.row
    line = Line(
        LineKind.ADJUSTMENT,
        f"{row.display_name}: adjustment",
        rated.row.item_id,
        row.id,
        rated.period,
        rated.quantity,
        difference,
        [step.as_strings() for one in rated.groups.values() for step in one.steps],
        Derivation(rated.total.exact, rated.share, tuple(one.billed for one in earlier)),
        row.meter_id,
    )
    yield correcting(line, earlier)


def _rated(row: UsagePeriod, facts: DraftFacts) -> RatedPeriod:
    rated = facts.rated[key_of(row)]
    if isinstance(rated, BillingError):
        raise rated
    return rated
