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
from billing.services.invoice_line import Derivation, Line, LineKind, line_of, true_up_line
from billing.services.price_book import BookedPrice, PriceKey

UNUSED: Final = ": unused time"
_WHAT: Final = {FeeReason.CREDIT: UNUSED, FeeReason.DEBIT: ": remaining time"}


def fee_lines(draft: Invoice, facts: DraftFacts) -> Iterator[Line]:
    """Of each fee period of the draft: the fee, and what it lacks to a bound; of a credit both are given back."""
    for row in facts.fees.get(draft.id, ()):
        reason, booked = FeeReason(row.reason), facts.prices[row.tenant_id, row.price_id]
        for line in _charged(row, booked):
            charge = replace(line, description=line.description + _WHAT.get(reason, ""))
            if reason is FeeReason.CREDIT:
                yield _given_back(charge, row)
            else:
                yield replace(charge, fee_id=row.id)


def fee_amount(row: FeePeriod, prices: Mapping[PriceKey, BookedPrice]) -> Money:
    """What a fee period charges; a credit is negative."""
    total = _rated(row, prices[row.tenant_id, row.price_id]).total
    return -total if FeeReason(row.reason) is FeeReason.CREDIT else total


def _charged(row: FeePeriod, booked: BookedPrice) -> Iterator[Line]:
    rated, share = _rated(row, booked), _share(row)
    period = Period(row.period_start, row.period_end)
    yield line_of(LineKind.FEE, row.item_id, booked, period, rated, share=share)
    if rated.true_up:
        yield true_up_line(row.item_id, booked, period, rated.true_up, share=share)


def _given_back(charge: Line, row: FeePeriod) -> Line:
    return replace(
        charge,
        amount=-charge.amount,
        steps=[
            {**step, "quantity": _minus(step["quantity"]), "amount": _minus(step["amount"])}
            for step in charge.steps
        ],
        derivation=Derivation(-charge.derivation.exact, charge.derivation.share),
        gives_back=row.gives_back,
    )


def _minus(decimal: str) -> str:
    return decimal[1:] if decimal.startswith("-") else "-" + decimal if decimal != "0" else decimal


def _rated(row: FeePeriod, booked: BookedPrice) -> Rated:
    return rate(booked.price, Usage(Fraction(row.quantity)), scale=_share(row), licensed=True)


def _share(row: FeePeriod) -> Fraction:
    nominal = Period(row.nominal_start, row.nominal_end)
    return Period(row.period_start, row.period_end).share_of(nominal)
