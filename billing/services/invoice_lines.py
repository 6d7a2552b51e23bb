"""Invoice path, step 4: the lines of a draft.

Invariant: one function computes them, for the preview (in one snapshot) and for finalization (under the locks), so
the preview is exactly what finalizing would give. A usage amount is rate(all effective records of the period now)
minus what finalized invoices carry for it; every line is rounded once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from uuid import UUID

import queries.invoices
from queries.invoices import ListDraftFeesRow, ListDraftTermsRow
from queries.models import Invoice, UsagePeriod

from billing.domain import totals
from billing.domain.errors import BillingError, Precondition
from billing.domain.money import Money
from billing.domain.period import Interval, Period, Schedule
from billing.domain.pricing import BillingTiming, Price, Rated, Usage, rate
from billing.domain.totals import Totals
from billing.runtime.db import Connection
from billing.services.price_book import BookedPrice, PriceKey, load_prices
from billing.services.quantities import PeriodKey, quantities_from_records


class LineKind(StrEnum):
    """What a line bills: a flat price for a period, or a metered one for a usage period."""

    FEE = "fee"
    USAGE = "usage"


@dataclass(frozen=True, slots=True)
class Line:
    """A line. `steps` are the derivation, as decimal text; `meter_id` is known while the line is computed."""

    kind: LineKind
    description: str
    item_id: UUID
    price_id: UUID
    period: Period
    quantity: Fraction
    amount: Money
    steps: Sequence[Mapping[str, str]]
    meter_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Computed:
    """What a draft is to become."""

    lines: Sequence[Line]
    totals: Totals


@dataclass(frozen=True, slots=True)
class Uncomputed:
    """Why a draft's lines cannot be computed now."""

    error: BillingError


class NegativeTotal(Precondition):
    """The invoice's lines sum to less than nothing, and there is no credit balance to take the rest."""

    reason = "RATING_FAILED"


@dataclass(frozen=True, slots=True)
class _Facts:
    """Everything that the lines of the drafts are computed from."""

    terms: Mapping[UUID, ListDraftTermsRow]
    fees: Mapping[UUID, Sequence[ListDraftFeesRow]]
    usage: Mapping[UUID, Sequence[UsagePeriod]]
    quantities: Mapping[PeriodKey, Decimal]
    finalized: Mapping[PeriodKey, int]
    prices: Mapping[PriceKey, BookedPrice]


async def compute(tx: Connection, drafts: Sequence[Invoice]) -> dict[UUID, Computed | Uncomputed]:
    """Lines and totals by invoice id. One draft that cannot be computed does not hold back the others."""
    try:
        facts = await _read(tx, drafts)
    except BillingError as error:
        if len(drafts) == 1:
            return {drafts[0].id: Uncomputed(error)}
        alone = [await compute(tx, [draft]) for draft in drafts]
        return {identity: outcome for one in alone for identity, outcome in one.items()}
    return {draft.id: _computed(draft, facts) for draft in drafts}


async def _read(tx: Connection, drafts: Sequence[Invoice]) -> _Facts:
    tenants = [draft.tenant_id for draft in drafts]
    ids = [draft.id for draft in drafts]
    subscriptions = [_subscription_of(draft) for draft in drafts]
    kinds = [draft.kind for draft in drafts]
    boundaries = [draft.boundary for draft in drafts]
    terms = await queries.invoices.list_draft_terms(
        tx,
        tenant_ids=tenants,
        invoice_ids=ids,
        subscription_ids=subscriptions,
        kinds=kinds,
        boundaries=boundaries,
    )
    fees = await queries.invoices.list_draft_fees(
        tx, tenant_ids=tenants, invoice_ids=ids, subscription_ids=subscriptions
    )
    usage = await queries.invoices.list_draft_usage_periods(
        tx,
        tenant_ids=tenants,
        invoice_ids=ids,
        subscription_ids=subscriptions,
        kinds=kinds,
        boundaries=boundaries,
    )
    keys = [_key(row.usage_period) for row in usage]
    wanted = [(row.tenant_id, row.price_id) for row in fees]
    wanted += [(row.usage_period.tenant_id, row.usage_period.price_id) for row in usage]
    fees_of: dict[UUID, list[ListDraftFeesRow]] = defaultdict(list)
    for fee in fees:
        fees_of[fee.invoice_id].append(fee)
    usage_of: dict[UUID, list[UsagePeriod]] = defaultdict(list)
    for row in usage:
        usage_of[row.invoice_id].append(row.usage_period)
    return _Facts(
        {row.invoice_id: row for row in terms},
        fees_of,
        usage_of,
        await quantities_from_records(tx, keys) if keys else {},
        await _finalized(tx, keys) if keys else {},
        await load_prices(tx, wanted),
    )


async def _finalized(tx: Connection, keys: Sequence[PeriodKey]) -> dict[PeriodKey, int]:
    rows = await queries.invoices.sum_finalized_usage(
        tx,
        tenant_ids=[key.tenant_id for key in keys],
        item_ids=[key.item_id for key in keys],
        period_starts=[key.period_start for key in keys],
    )
    return {PeriodKey(row.tenant_id, row.item_id, row.period_start): row.amount for row in rows}


def _computed(draft: Invoice, facts: _Facts) -> Computed | Uncomputed:
    try:
        lines = [*_usage_lines(draft, facts), *_fee_lines(draft, facts)]
        summed = totals.invoice_totals(
            [totals.Line(line.amount) for line in lines], (), Money.zero(draft.currency)
        )
        if summed.to_credit_balance:
            raise NegativeTotal()
    except BillingError as error:
        return Uncomputed(error)
    return Computed(lines, summed)


def _usage_lines(draft: Invoice, facts: _Facts) -> Iterator[Line]:
    """A line for each usage period that the draft bills, at zero usage too; a true-up is a line of its own."""
    schedule = _schedule(facts.terms[draft.id])
    # Most lines of an invoice share one period, and what a boundary is takes longer than the price.
    scales: dict[tuple[datetime, datetime], tuple[Period, Fraction]] = {}
    for row in facts.usage.get(draft.id, ()):
        booked = facts.prices[row.tenant_id, row.price_id]
        key = _key(row)
        span = (row.period_start, row.period_end)
        if span not in scales:
            whole = Period(*span)
            scales[span] = whole, whole.share_of(schedule.containing(whole.start))
        period, scale = scales[span]
        quantity = facts.quantities.get(key, Decimal(0))
        rated = rate(booked.price, Usage(Fraction(quantity)), scale=scale)
        before = Money(facts.finalized.get(key, 0), draft.currency)
        yield _line(LineKind.USAGE, row.item_id, booked, period, rated, rated.amount - before)
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


def _fee_lines(draft: Invoice, facts: _Facts) -> Iterator[Line]:
    """Fees in arrears for the period that ended, then fees in advance for the one that begins."""
    terms = facts.terms[draft.id]
    schedule = _schedule(terms)
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
                yield _line(LineKind.FEE, fee.item_id, booked, period, rated, rated.total)


def _licensed(price: Price, quantity: Decimal, scale: Fraction) -> Rated:
    return rate(price, Usage(Fraction(quantity)), scale=scale, licensed=True)


def _line(
    kind: LineKind, item_id: UUID, booked: BookedPrice, period: Period, rated: Rated, amount: Money
) -> Line:
    row = booked.row
    steps = [step.as_strings() for step in rated.steps]
    return Line(
        kind, row.display_name, item_id, row.id, period, rated.quantity, amount, steps, row.meter_id
    )


def _schedule(terms: ListDraftTermsRow) -> Schedule:
    assert terms.anchor_at is not None, "a cycle is opened at the activation, which sets the anchor"
    return Schedule(terms.anchor_at, terms.time_zone, Interval(terms.billing_interval))


def _key(row: UsagePeriod) -> PeriodKey:
    return PeriodKey(row.tenant_id, row.item_id, row.period_start)


def _subscription_of(draft: Invoice) -> UUID:
    assert draft.subscription_id is not None, "every cycle's draft names its subscription"
    return draft.subscription_id
