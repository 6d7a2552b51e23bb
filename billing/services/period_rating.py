"""Usage path, step 3, and invoice path, step 4: what usage periods cost.

Invariant: `rate_periods` is the one place where usage becomes money: the first bill, an adjustment, a preview, an
explanation and a running charge ask here. Its answer is rate(all effective records of the period now, at that period's
price), whatever was billed before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from queries.models import UsagePeriod

from billing.domain.errors import BillingError
from billing.domain.money import Money
from billing.domain.period import Period
from billing.domain.pricing import Rated, rate_groups
from billing.runtime.db import Connection
from billing.services.price_book import BookedPrice, load_prices
from billing.services.quantities import Measured, Source, measure
from billing.services.quantity_reads import Group, PeriodKey, key_of
from billing.services.usage_periods import nominal_of


@dataclass(frozen=True, slots=True)
class RatedPeriod:
    """What a usage period costs: the price, or each group value, rounded once; and the true-up of their sum.

    `groups` has at least one entry: () without group-by, and where a grouped meter saw nothing. `share` is the period's
    of the full one that it is cut from, `measured` what each group used, before the price divided or rounded it.
    """

    row: UsagePeriod
    booked: BookedPrice
    group_by: Group
    groups: Mapping[Group, Rated]
    true_up: Money
    share: Fraction
    measured: Mapping[Group, Fraction]

    @property
    def period(self) -> Period:
        """The time that is rated."""
        return Period(self.row.period_start, self.row.period_end)

    @property
    def total(self) -> Money:
        """All of it."""
        total = self.true_up
        for rated in self.groups.values():
            total += rated.amount
        return total

    @property
    def quantity(self) -> Fraction:
        """The quantity of all groups together, as it was priced."""
        return sum((rated.quantity for rated in self.groups.values()), Fraction(0))

    def dimensions(self, group: Group) -> dict[str, str]:
        """The group's values by property."""
        return dict(zip(self.group_by, group, strict=False))


async def rate_periods(
    tx: Connection, rows: Sequence[UsagePeriod], source: Source = Source.RECORDS
) -> dict[PeriodKey, RatedPeriod | BillingError]:
    """What each usage period costs, or why it cannot be told; one that fails leaves the others alone.

    With the records as source, lock the periods before, or read in one snapshot. Buckets are for running charges.
    """
    booked = await load_prices(tx, [(row.tenant_id, row.price_id) for row in rows])
    outcomes: dict[PeriodKey, RatedPeriod | BillingError] = {}
    ratable = []
    for row in rows:
        try:
            ratable.append((row, booked[row.tenant_id, row.price_id].price))
        except BillingError as error:
            outcomes[key_of(row)] = error
    measured = await measure(tx, ratable, source)
    for row, _ in ratable:
        key = key_of(row)
        found = measured[key]
        outcomes[key] = (
            _outcome(row, booked[row.tenant_id, row.price_id], found)
            if isinstance(found, Measured)
            else found
        )
    return outcomes


def _outcome(
    row: UsagePeriod, booked: BookedPrice, measured: Measured
) -> RatedPeriod | BillingError:
    try:
        return _rated(row, booked, measured)
    except BillingError as error:
        return error


def _rated(row: UsagePeriod, booked: BookedPrice, measured: Measured) -> RatedPeriod:
    share = Period(row.period_start, row.period_end).share_of(nominal_of(row))
    rated = rate_groups(booked.price, measured.groups, scale=share)
    lines = dict(rated.lines)
    if not lines:
        zero = Money.zero(booked.row.currency)
        lines[()] = Rated(zero, zero, Fraction(0), Fraction(0), ())
    used = {group: usage.quantity for group, usage in measured.groups.items()}
    return RatedPeriod(row, booked, measured.group_by, lines, rated.true_up, share, used)
