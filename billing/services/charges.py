"""Usage path, step 3: what usage costs so far, for looking.

Invariant: a running charge is rate(all that the buckets hold for the period now), never an increment; an invoice is
computed once more from the records and takes nothing from here. Trial usage is shown and costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final
from uuid import UUID

import queries.rating
from queries.rating import ListChargesRow

from billing.domain.errors import CurrencyMismatch
from billing.domain.money import Money
from billing.runtime.db import Connection
from billing.services.invoice_line import LineKind
from billing.services.period_rating import RatedPeriod
from billing.services.quantity_reads import PeriodKey, group_key_of, key_of
from billing.services.running_commitments import RunningCommitment, running_commitments
from billing.services.subscriptions import get_subscription

CHARGES_SHOWN_MAX: Final = 1000
_ZERO: Final = Fraction(0)

RunningCharge = ListChargesRow


@dataclass(frozen=True, slots=True)
class ChargeLine:
    """A line that the invoice would have; `measured` is its quantity before the price divided or rounded it."""

    kind: LineKind
    group_key: str
    measured: Fraction
    quantity: Fraction
    amount: Money


@dataclass(frozen=True, slots=True)
class Charge:
    """What a usage period costs as of now."""

    rated: RatedPeriod

    @property
    def key(self) -> PeriodKey:
        """Which usage period."""
        return key_of(self.rated.row)

    @property
    def is_billable(self) -> bool:
        """Whether an invoice will bill it: not so a trial."""
        return self.rated.row.bill_kind is not None

    @property
    def amount(self) -> Money:
        """All of it; a trial costs nothing."""
        total = self.rated.total
        return total if self.is_billable else Money.zero(total.currency)

    def lines(self) -> Iterator[ChargeLine]:
        """One for each group value, and the true-up, if there is one."""
        nothing = Money.zero(self.rated.true_up.currency)
        for group, one in self.rated.groups.items():
            amount = one.amount if self.is_billable else nothing
            measured = self.rated.measured.get(group, _ZERO)
            yield ChargeLine(LineKind.USAGE, group_key_of(group), measured, one.quantity, amount)
        if self.rated.true_up and self.is_billable:
            yield ChargeLine(LineKind.TRUE_UP, "", _ZERO, _ZERO, self.rated.true_up)


@dataclass(frozen=True, slots=True)
class Charges:
    """The running charges of a subscription, oldest period first, and why its last rating failed, if it did.

    `commitments` are what its billing periods lack to what their plans promise.
    """

    rows: Sequence[RunningCharge]
    commitments: Sequence[RunningCommitment]
    failure: str


def charge(rated: RatedPeriod, currency: str) -> Charge:
    """The charge of a usage period of a subscription in `currency`. Raises CurrencyMismatch."""
    actual = rated.booked.row.currency
    if actual != currency:
        raise CurrencyMismatch(
            f"The subscription is in {currency} and its price {rated.booked.row.display_name!r} in {actual};"
            " migrate it to a price in its own currency.",
            metadata={"expected": currency, "actual": actual},
        )
    return Charge(rated)


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
    charged: dict[PeriodKey, Money] = {}
    for row in rows:
        key = PeriodKey(tenant_id, row.item_id, row.period_start)
        charged[key] = charged.get(key, Money.zero(row.currency)) + Money(row.amount, row.currency)
    commitments = await running_commitments(tx, tenant_id, view.row.id, charged)
    return Charges(rows, commitments, view.row.rating_error or "")
