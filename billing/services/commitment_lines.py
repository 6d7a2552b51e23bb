"""Invoice path, step 4: the line that brings a billing period up to what its plan promises.

Invariant: the true-up is the commitment, scaled to the period, minus the usage and the fees of the period before
discounts, if positive; and minus what finalized invoices carry of it already, so usage that comes later takes it back.
A period that changed its plan on the way owes each plan's commitment for that plan's share of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from queries.models import FeePeriod, Invoice, UsagePeriod

from billing.domain.errors import BillingError
from billing.domain.money import Money, total_of
from billing.domain.period import Interval, Period, Schedule
from billing.domain.pricing import Step
from billing.domain.totals import commitment_true_up
from billing.services.corrections import correcting, left_to_bill
from billing.services.draft_facts import DraftFacts
from billing.services.fee_lines import fee_amount
from billing.services.invoice_line import Derivation, Line, LineKind
from billing.services.promises import Promise
from billing.services.quantity_reads import key_of


def commitment_lines(draft: Invoice, facts: DraftFacts) -> Iterator[Line]:
    """A line for each period that the draft ends or adjusts, where there is one to write.

    Raises why usage that counts cannot be rated.
    """
    for promise in facts.promises.get(draft.id, ()):
        reached = _reached(promise, facts)
        nominal = _nominal(promise)
        owed = _owed(promise, nominal)
        wanted = _wanted(owed, reached)
        amount = left_to_bill(wanted, promise.earlier)
        if amount is not None:
            period = Period(promise.row.period_start, promise.row.boundary)
            steps = (
                *owed,
                Step("usage and fees", Fraction(1), -reached.exact, -reached.exact),
            )
            line = Line(
                LineKind.COMMITMENT,
                f"{promise.row.display_name}: up to the commitment",
                None,
                None,
                period,
                Fraction(0),
                amount,
                [step.as_strings() for step in steps],
                Derivation(
                    wanted.exact,
                    period.share_of(nominal),
                    tuple(one.billed for one in promise.earlier),
                ),
                default_tax_percent=_tax_percent(promise, facts),
            )
            yield correcting(line, promise.earlier)


def running_true_up(promise: Promise, reached: Money) -> Money:
    """What a period lacks as of now to what it promises, when it is not billed yet and `reached` is what counts."""
    return _wanted(_owed(promise, _nominal(promise)), reached)


def _tax_percent(promise: Promise, facts: DraftFacts) -> Fraction:
    """The tax of all prices that count towards it, where they agree; else none, as of any line without a price."""
    parts: list[FeePeriod | UsagePeriod] = [*promise.fees, *promise.usage]
    percents = {facts.prices[part.tenant_id, part.price_id].row.tax_percent or 0 for part in parts}
    return Fraction(percents.pop()) if len(percents) == 1 else Fraction(0)


def _reached(promise: Promise, facts: DraftFacts) -> Money:
    """Usage with its minimums and maximums, and fees with their credits."""
    amounts = [fee_amount(row, facts.prices) for row in promise.fees]
    for row in promise.usage:
        rated = facts.rated[key_of(row)]
        if isinstance(rated, BillingError):
            raise rated
        amounts.append(rated.total)
    return total_of(amounts, promise.row.currency)


def _owed(promise: Promise, nominal: Period) -> list[Step]:
    """What each plan of the period promises for its stretch."""
    return [
        Step.of(
            "commitment",
            Period(stretch.stretch_start, stretch.stretch_end).share_of(nominal),
            Fraction(stretch.commitment),
        )
        for stretch in promise.stretches
    ]


def _wanted(owed: Sequence[Step], reached: Money) -> Money:
    return commitment_true_up(sum((step.amount for step in owed), Fraction(0)), reached)


def _nominal(promise: Promise) -> Period:
    """The full period that the billing period is cut from.

    Its usage says so first, since the fee of another interval may begin with its day.
    """
    row = promise.row
    parts: list[FeePeriod | UsagePeriod] = [*promise.usage, *promise.fees]
    for part in parts:
        if part.period_start == row.period_start and part.nominal_start and part.nominal_end:
            return Period(part.nominal_start, part.nominal_end)
    schedule = Schedule(
        row.anchor_at or row.period_start, row.time_zone, Interval(row.billing_interval)
    )
    return schedule.containing(row.period_start)
