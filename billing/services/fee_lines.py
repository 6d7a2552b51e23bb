"""Invoice path, step 4: the fee lines of a draft.

Invariant: a partial period costs its exact share of the full period it is cut from; a credit is the same share of the
charge that it gives back; every line is rounded once, so a change and its reverse at one instant net to zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Final

from queries.models import FeePeriod, Invoice

from billing.domain.period import Period
from billing.domain.pricing import Usage, rate
from billing.services.draft_facts import DraftFacts
from billing.services.fee_periods import FeeReason
from billing.services.invoice_line import Derivation, Line, LineKind, line_of

_WHAT: Final = {FeeReason.CREDIT: ": unused time", FeeReason.DEBIT: ": remaining time"}


def fee_lines(draft: Invoice, facts: DraftFacts) -> Iterator[Line]:
    """A line for each fee period of the draft: charges, and credits as negative lines."""
    for row in facts.fees.get(draft.id, ()):
        yield _fee_line(row, facts)


def _fee_line(row: FeePeriod, facts: DraftFacts) -> Line:
    booked = facts.prices[row.tenant_id, row.price_id]
    period = Period(row.period_start, row.period_end)
    share = period.share_of(Period(row.nominal_start, row.nominal_end))
    rated = rate(booked.price, Usage(Fraction(row.quantity)), scale=share, licensed=True)
    reason = FeeReason(row.reason)
    sign = -1 if reason is FeeReason.CREDIT else 1
    line = line_of(LineKind.FEE, row.item_id, booked, period, rated, share=share)
    return replace(
        line,
        amount=-rated.total if sign < 0 else rated.total,
        description=line.description + _WHAT.get(reason, ""),
        derivation=Derivation(sign * rated.exact, share),
    )
