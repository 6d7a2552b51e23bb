"""Invoice path, step 4: the usage lines of a draft.

Invariant: an amount is rate(all effective records of the period now) minus what finalized invoices carry for it; every
line is rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

from queries.models import Invoice

from billing.domain.money import Money
from billing.domain.period import Period
from billing.domain.pricing import Usage, rate
from billing.services.draft_facts import DraftFacts, period_key
from billing.services.invoice_line import Line, LineKind, line_of
from billing.services.usage_periods import nominal_of


def usage_lines(draft: Invoice, facts: DraftFacts) -> Iterator[Line]:
    """A line for each usage period that the draft bills, at zero usage too; a true-up is a line of its own."""
    # Most lines of an invoice share one period.
    scales: dict[tuple[datetime, datetime], tuple[Period, Fraction]] = {}
    for row in facts.usage.get(draft.id, ()):
        booked = facts.prices[row.tenant_id, row.price_id]
        key = period_key(row)
        span = (row.period_start, row.period_end)
        if span not in scales:
            whole = Period(*span)
            scales[span] = whole, whole.share_of(nominal_of(row))
        period, scale = scales[span]
        quantity = facts.quantities.get(key, Decimal(0))
        rated = rate(booked.price, Usage(Fraction(quantity)), scale=scale)
        before = Money(facts.finalized.get(key, 0), draft.currency)
        yield line_of(LineKind.USAGE, row.item_id, booked, period, rated, rated.amount - before)
        if rated.true_up:
            bound = "up to the minimum" if rated.true_up.minor_units > 0 else "down to the maximum"
            yield Line(
                LineKind.USAGE,
                f"{booked.row.display_name}: {bound}",
                row.item_id,
                row.price_id,
                period,
                Fraction(0),
                rated.true_up,
                (),
            )
