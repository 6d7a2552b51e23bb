"""Invoice path, step 4: what the lines of drafts are computed from, read in a few statements for all of them.

Invariant: records are read after the drafts' usage periods were locked (finalization) or in one snapshot (preview).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import queries.fee_periods
import queries.invoices
from queries.models import FeePeriod, Invoice, UsagePeriod

from billing.domain.errors import BillingError
from billing.runtime.db import Connection
from billing.services.period_rating import RatedPeriod, rate_periods
from billing.services.price_book import BookedPrice, PriceKey, load_prices
from billing.services.quantity_reads import PeriodKey, key_of


@dataclass(frozen=True, slots=True)
class DraftFacts:
    """By invoice id, usage period or price.

    `rated` is what a usage period costs now, or why it cannot be told; `finalized` what final invoices carry for it, in
    minor units, where there are any.
    """

    fees: Mapping[UUID, Sequence[FeePeriod]]
    usage: Mapping[UUID, Sequence[UsagePeriod]]
    rated: Mapping[PeriodKey, RatedPeriod | BillingError]
    finalized: Mapping[PeriodKey, int]
    prices: Mapping[PriceKey, BookedPrice]


async def read_facts(tx: Connection, drafts: Sequence[Invoice]) -> DraftFacts:
    """Reads what the drafts' lines are computed from."""
    tenants = [draft.tenant_id for draft in drafts]
    ids = [draft.id for draft in drafts]
    subscriptions = [_subscription_of(draft) for draft in drafts]
    kinds = [draft.kind for draft in drafts]
    boundaries = [draft.boundary for draft in drafts]
    fees = await queries.fee_periods.list_draft_fees(
        tx,
        tenant_ids=tenants,
        invoice_ids=ids,
        subscription_ids=subscriptions,
        kinds=kinds,
        boundaries=boundaries,
    )
    usage = await queries.invoices.list_draft_usage_periods(
        tx,
        tenant_ids=tenants,
        invoice_ids=ids,
        subscription_ids=subscriptions,
        kinds=kinds,
        boundaries=boundaries,
    )
    keys = [key_of(row.usage_period) for row in usage]
    fees_of: dict[UUID, list[FeePeriod]] = defaultdict(list)
    for fee in fees:
        fees_of[fee.invoice_id].append(fee.fee_period)
    usage_of: dict[UUID, list[UsagePeriod]] = defaultdict(list)
    for row in usage:
        usage_of[row.invoice_id].append(row.usage_period)
    return DraftFacts(
        fees_of,
        usage_of,
        await rate_periods(tx, [row.usage_period for row in usage]),
        await _finalized(tx, keys) if keys else {},
        await load_prices(
            tx, [(row.fee_period.tenant_id, row.fee_period.price_id) for row in fees]
        ),
    )


async def _finalized(tx: Connection, keys: Sequence[PeriodKey]) -> dict[PeriodKey, int]:
    rows = await queries.invoices.sum_finalized_usage(
        tx,
        tenant_ids=[key.tenant_id for key in keys],
        item_ids=[key.item_id for key in keys],
        period_starts=[key.period_start for key in keys],
    )
    return {PeriodKey(row.tenant_id, row.item_id, row.period_start): row.amount for row in rows}


def _subscription_of(draft: Invoice) -> UUID:
    assert draft.subscription_id is not None, "every cycle's draft names its subscription"
    return draft.subscription_id
