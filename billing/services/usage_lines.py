"""Invoice path, step 4: the usage lines of a draft, and its adjustments of what was billed before.

Invariant: an amount is rate(all effective records of the period now) minus what finalized invoices carry for it,
however often it is billed; every line is rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

from queries.models import Invoice, UsagePeriod

from billing.domain.money import Money, total_of
from billing.domain.period import Period
from billing.domain.pricing import Usage, adjustment, rate
from billing.services.draft_facts import DraftFacts, period_key
from billing.services.invoice_line import (
    Derivation,
    EarlierAmount,
    EarlierLine,
    Line,
    LineKind,
    line_of,
)
from billing.services.usage_periods import nominal_of


def usage_lines(draft: Invoice, facts: DraftFacts) -> Iterator[Line]:
    """A line for each usage period that the draft bills, at zero usage too; a true-up is a line of its own.

    What another invoice carries for the period already, as after a void, is taken off its first line.
    """
    rater = PeriodRater(facts)
    for row in facts.periods[draft.id].own:
        first, *others = rater.lines(row)
        earlier = facts.earlier.get(period_key(row), ())
        if earlier:
            lines_total = total_of((line.amount for line in (first, *others)), draft.currency)
            taken_off = lines_total - still_owed(lines_total, earlier)
            first = replace(
                first,
                amount=first.amount - taken_off,
                derivation=replace(first.derivation, earlier=_amounts(earlier)),
            )
        yield from (first, *others)


def adjustment_lines(draft: Invoice, facts: DraftFacts) -> Iterator[Line]:
    """One line, maybe a negative one, for each period billed before whose amount is another now; true-ups included."""
    rater = PeriodRater(facts)
    for row in facts.periods[draft.id].adjusted:
        lines = rater.lines(row)
        earlier = facts.earlier.get(period_key(row), ())
        difference = still_owed(total_of((line.amount for line in lines), draft.currency), earlier)
        if difference:
            yield replace(
                lines[0],
                kind=LineKind.ADJUSTMENT,
                amount=difference,
                steps=[step for line in lines for step in line.steps],
                derivation=Derivation(
                    sum((line.derivation.exact for line in lines), start=Fraction(0)),
                    lines[0].derivation.share,
                    _amounts(earlier),
                ),
                own_discount_percent=_own_discount(difference, earlier),
                tax_percent=earlier[0].tax_percent if earlier else None,
            )


def still_owed(now: Money, earlier: Sequence[EarlierLine]) -> Money:
    """What a period costs `now` beyond what earlier invoices carry for it; negative to give back."""
    amounts = _amounts(earlier)
    billed = total_of((one.amount for one in amounts if not one.waived), now.currency)
    waived = total_of((one.amount for one in amounts if one.waived), now.currency)
    return adjustment(now, billed, waived) or Money.zero(now.currency)


def _amounts(earlier: Sequence[EarlierLine]) -> tuple[EarlierAmount, ...]:
    return tuple(line.billed for line in earlier)


def _own_discount(difference: Money, earlier: Sequence[EarlierLine]) -> Fraction | None:
    """The discount of the period that is corrected, in percent.

    More usage gets what its invoice gave in percent; an amount that was given off it stays as it is. What is given back
    is given back as it was billed: with all that was taken off it.
    """
    if not earlier:
        return None
    if difference.minor_units < 0:
        billed = sum(line.billed.amount.minor_units for line in earlier)
        taken_off = sum(line.discount.minor_units for line in earlier)
        return Fraction(100 * taken_off, billed) if billed else Fraction(0)
    left = Fraction(1)
    for percent in earlier[0].percents:
        left *= 1 - percent / 100
    return 100 * (1 - left)


class PeriodRater:
    """Rates usage periods."""

    def __init__(self, facts: DraftFacts) -> None:
        self._facts = facts
        # Most lines of an invoice share one period.
        self._scales: dict[tuple[datetime, datetime], tuple[Period, Fraction]] = {}

    def lines(self, row: UsagePeriod) -> list[Line]:
        """All that the period costs by all of its effective records, whatever was billed of it; a line at least."""
        booked = self._facts.prices[row.tenant_id, row.price_id]
        period, scale = self._scale(row)
        quantity = self._facts.quantities.get(period_key(row), Decimal(0))
        rated = rate(booked.price, Usage(Fraction(quantity)), scale=scale)
        line = line_of(LineKind.USAGE, row.item_id, booked, period, rated, share=scale)
        if not rated.true_up:
            return [line]
        bound = "up to the minimum" if rated.true_up.minor_units > 0 else "down to the maximum"
        true_up = replace(
            line,
            description=f"{booked.row.display_name}: {bound}",
            quantity=Fraction(0),
            amount=rated.true_up,
            steps=(),
            derivation=replace(line.derivation, exact=rated.true_up.exact),
            meter_id=None,
        )
        return [line, true_up]

    def _scale(self, row: UsagePeriod) -> tuple[Period, Fraction]:
        """The period, and its share of the full one that it is cut from."""
        span = (row.period_start, row.period_end)
        if span not in self._scales:
            whole = Period(*span)
            self._scales[span] = whole, whole.share_of(nominal_of(row))
        return self._scales[span]
