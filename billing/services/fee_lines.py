"""Invoice path, step 4: the fee lines of a draft.

Invariant: a partial period costs its exact share of the full period it is cut from; a credit is the same share of the
charge that it gives back; every line is rounded once, so a change and its reverse at one instant net to zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Final

from queries.models import FeePeriod, Invoice

from billing.domain.money import Money
from billing.domain.period import Period
from billing.domain.pricing import Rated, Usage, rate
from billing.services.draft_facts import DraftFacts
from billing.services.fee_periods import FeeReason
from billing.services.invoice_line import Derivation, Line, LineKind, line_of
from billing.services.price_book import BookedPrice, PriceKey

_WHAT: Final = {FeeReason.CREDIT: ": unused time", FeeReason.DEBIT: ": remaining time"}


def fee_lines(draft: Invoice, facts: DraftFacts) -> Iterator[Line]:
    """A line for each fee period of the draft: charges, and credits as negative lines."""
    for row in facts.fees.get(draft.id, ()):
        yield _fee_line(row, facts)


def fee_amount(row: FeePeriod, prices: Mapping[PriceKey, BookedPrice]) -> Money:
    """What a fee period charges; a credit is negative."""
    total = _rated(row, prices[row.tenant_id, row.price_id]).total
    return -total if FeeReason(row.reason) is FeeReason.CREDIT else total


def _fee_line(row: FeePeriod, facts: DraftFacts) -> Line:
    booked = facts.prices[row.tenant_id, row.price_id]
    rated = _rated(row, booked)
    period = Period(row.period_start, row.period_end)
    line = line_of(LineKind.FEE, row.item_id, booked, period, rated, share=_share(row))
    sign = -1 if FeeReason(row.reason) is FeeReason.CREDIT else 1
    return replace(
        line,
        amount=fee_amount(row, facts.prices),
        description=line.description + _WHAT.get(FeeReason(row.reason), ""),
        derivation=Derivation(sign * rated.exact, _share(row)),
        fee_id=row.gives_back or row.id,
    )


def _rated(row: FeePeriod, booked: BookedPrice) -> Rated:
    return rate(booked.price, Usage(Fraction(row.quantity)), scale=_share(row), licensed=True)


def _share(row: FeePeriod) -> Fraction:
    nominal = Period(row.nominal_start, row.nominal_end)
    return Period(row.period_start, row.period_end).share_of(nominal)
