"""Usage path, step 3: what usage costs so far, for looking.

Invariant: a running charge is rate(all that the buckets hold for the period now), never an increment; an invoice is
computed once more from the records and takes nothing from here. Trial usage is shown and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final
from uuid import UUID

import queries.rating
from queries.rating import ListChargesRow, ListPeriodsToRateRow

from billing.domain.money import Money
from billing.domain.pricing import Usage, rate
from billing.runtime.db import Connection
from billing.services.price_book import BookedPrice
from billing.services.quantities import Bucketed, PeriodKey
from billing.services.subscriptions import get_subscription

CHARGES_SHOWN_MAX: Final = 1000

RunningCharge = ListChargesRow


@dataclass(frozen=True, slots=True)
class Charge:
    """What a usage period costs as of now."""

    period: ListPeriodsToRateRow
    quantity: Decimal
    amount: Money

    @property
    def key(self) -> PeriodKey:
        """Which usage period."""
        return PeriodKey(self.period.tenant_id, self.period.item_id, self.period.period_start)


@dataclass(frozen=True, slots=True)
class Charges:
    """The running charges of a subscription, oldest period first, and why its last rating failed, if it did."""

    rows: Sequence[RunningCharge]
    failure: str


def charge(period: ListPeriodsToRateRow, used: Bucketed, booked: BookedPrice) -> Charge:
    """The charge of a usage period. Raises what the price says: InvalidPrice, UsageNotRatable, AmountOutOfRange."""
    quantity = used.quantity(period.aggregation)
    usage = Usage(Fraction(quantity), events_count=used.records)
    amount = rate(booked.price, usage).total
    if not period.is_billable:
        amount = Money.zero(amount.currency)
    return Charge(period, quantity, amount)


async def get_charges(
    tx: Connection, tenant_id: UUID, *, subscription_id: UUID | None = None, external_id: str = ""
) -> Charges:
    """The running charges of the subscription, by id or else by external id. Raises SubscriptionNotFound."""
    view = await get_subscription(
        tx, tenant_id, subscription_id=subscription_id, external_id=external_id
    )
    rows = await queries.rating.list_charges(
        tx, tenant_id=tenant_id, subscription_id=view.row.id, rows_max=CHARGES_SHOWN_MAX
    )
    return Charges(rows, view.row.rating_error or "")
