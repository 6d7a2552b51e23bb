"""Usage path, step 3: what the periods that no invoice has billed yet lack to their plans' commitments, for looking.

Invariant: with the running charges that are shown beside it and the fees, a true-up comes to what the period promises;
it is the line that the period's draft would have when everything is rated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import queries.commitments

from billing.domain.errors import BillingError
from billing.domain.money import Money, total_of
from billing.domain.period import Period
from billing.runtime.db import Connection
from billing.services.commitment_lines import running_true_up
from billing.services.fee_lines import fee_amount
from billing.services.period_rating import rate_periods
from billing.services.price_book import BookedPrice, PriceKey, load_prices
from billing.services.promises import CycleKey, Promise, promises_of
from billing.services.quantities import Source
from billing.services.quantity_reads import PeriodKey, key_of


@dataclass(frozen=True, slots=True)
class RunningCommitment:
    """A billing period, and what it lacks."""

    period: Period
    amount: Money


async def running_commitments(
    tx: Connection, tenant_id: UUID, subscription_id: UUID, charged: Mapping[PeriodKey, Money]
) -> list[RunningCommitment]:
    """Oldest first; `charged` are the running charges that are shown, by usage period.

    None of a period whose usage cannot be rated: the draft would wait as well.
    """
    rows = await queries.commitments.list_unbilled_cycles(
        tx, tenant_id=tenant_id, subscription_id=subscription_id
    )
    keys = [CycleKey(tenant_id, subscription_id, row.kind, row.boundary) for row in rows]
    promises = list((await promises_of(tx, keys)).values())
    if not promises:
        return []
    prices = await load_prices(
        tx, [(fee.tenant_id, fee.price_id) for one in promises for fee in one.fees]
    )
    amounts = dict(charged) | await _not_charged(tx, promises, charged)
    return [
        RunningCommitment(Period(one.row.period_start, one.row.boundary), amount)
        for one in promises
        if all(key_of(row) in amounts for row in one.usage)
        for amount in [running_true_up(one, _reached(one, amounts, prices))]
        if amount
    ]


async def _not_charged(
    tx: Connection, promises: Sequence[Promise], charged: Mapping[PeriodKey, Money]
) -> dict[PeriodKey, Money]:
    """What usage periods cost that nothing was used in: a minimum, or a tier's flat amount."""
    rows = [row for one in promises for row in one.usage if key_of(row) not in charged]
    rated = await rate_periods(tx, rows, Source.BUCKETS) if rows else {}
    return {key: one.total for key, one in rated.items() if not isinstance(one, BillingError)}


def _reached(
    promise: Promise, amounts: Mapping[PeriodKey, Money], prices: Mapping[PriceKey, BookedPrice]
) -> Money:
    found = [fee_amount(row, prices) for row in promise.fees]
    found += [amounts[key_of(row)] for row in promise.usage]
    return total_of(found, promise.row.currency)
