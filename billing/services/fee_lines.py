"""Invoice path, step 4: the fee lines of a draft.

Invariant: a partial period costs its exact share of the full period it is cut from; every line is rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

from queries.models import Invoice

from billing.domain.period import Period
from billing.domain.pricing import BillingTiming, Price, Rated, Usage, rate
from billing.services.draft_facts import DraftFacts, schedule_of
from billing.services.invoice_line import Line, LineKind, line_of


def fee_lines(draft: Invoice, facts: DraftFacts) -> Iterator[Line]:
    """Fees in arrears for the period that ended, then fees in advance for the one that begins."""
    terms = facts.terms[draft.id]
    schedule = schedule_of(terms)
    begins = Period(draft.boundary, schedule.containing(draft.boundary).end)
    billed = [(BillingTiming.IN_ADVANCE, begins)]
    if terms.period_start is not None:
        billed.insert(0, (BillingTiming.IN_ARREARS, Period(terms.period_start, draft.boundary)))
    for timing, period in billed:
        scale = period.share_of(schedule.containing(period.start))
        for fee in facts.fees.get(draft.id, ()):
            booked = facts.prices[fee.tenant_id, fee.price_id]
            if booked.row.billing_timing == timing:
                rated = _licensed(booked.price, fee.quantity, scale)
                line = line_of(LineKind.FEE, fee.item_id, booked, period, rated, share=scale)
                yield replace(line, amount=rated.total)


def _licensed(price: Price, quantity: Decimal, scale: Fraction) -> Rated:
    return rate(price, Usage(Fraction(quantity)), scale=scale, licensed=True)
