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
from queries.models import FeePeriod, Invoice

from billing.domain.errors import BillingError
from billing.runtime.db import Connection
from billing.services.corrections import earlier_line
from billing.services.draft_periods import PeriodsByDraft
from billing.services.invoice_line import EarlierLine
from billing.services.period_rating import RatedPeriod, rate_periods
from billing.services.price_book import BookedPrice, PriceKey, load_prices
from billing.services.promises import Promise, read_promises
from billing.services.quantity_reads import PeriodKey, key_of


@dataclass(frozen=True, slots=True)
class DraftFacts:
    """By invoice id, usage period or price.

    `rated` is what a usage period costs now, or why it cannot be told; `earlier` what final invoices carry for it;
    `promises` the commitments of the periods that the drafts end or adjust.
    """

    fees: Mapping[UUID, Sequence[FeePeriod]]
    periods: PeriodsByDraft
    rated: Mapping[PeriodKey, RatedPeriod | BillingError]
    earlier: Mapping[PeriodKey, Sequence[EarlierLine]]
    prices: Mapping[PriceKey, BookedPrice]
    promises: Mapping[UUID, Sequence[Promise]]


async def read_facts(
    tx: Connection,
    drafts: Sequence[Invoice],
    periods: PeriodsByDraft,
    to_come: Mapping[UUID, Sequence[FeePeriod]],
) -> DraftFacts:
    """Reads what the drafts' lines are computed from; `periods` are theirs, `to_come` fees that are not stored yet."""
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
    rows = [row for draft in drafts for row in periods[draft.id]]
    fees_of: dict[UUID, list[FeePeriod]] = defaultdict(list)
    for fee in fees:
        fees_of[fee.invoice_id].append(fee.fee_period)
    for identity, coming in to_come.items():
        fees_of[identity].extend(coming)
    promises = await read_promises(tx, drafts, periods)
    promised = [promise for found in promises.values() for promise in found]
    usage = {key_of(row): row for row in [*rows, *(row for one in promised for row in one.usage)]}
    priced = [(row.tenant_id, row.price_id) for row in usage.values()]
    priced += [(row.tenant_id, row.price_id) for found in fees_of.values() for row in found]
    priced += [(row.tenant_id, row.price_id) for one in promised for row in one.fees]
    return DraftFacts(
        fees_of,
        periods,
        await rate_periods(tx, list(usage.values())) if usage else {},
        await _earlier(tx, [key_of(row) for row in rows]) if rows else {},
        await load_prices(tx, priced),
        promises,
    )


async def _earlier(tx: Connection, keys: Sequence[PeriodKey]) -> dict[PeriodKey, list[EarlierLine]]:
    rows = await queries.invoices.list_earlier_lines(
        tx,
        tenant_ids=[key.tenant_id for key in keys],
        item_ids=[key.item_id for key in keys],
        period_starts=[key.period_start for key in keys],
    )
    earlier: dict[PeriodKey, list[EarlierLine]] = defaultdict(list)
    for row in rows:
        key = PeriodKey(row.tenant_id, row.item_id, row.period_start)
        earlier[key].append(earlier_line(row))
    return earlier


def _subscription_of(draft: Invoice) -> UUID:
    assert draft.subscription_id is not None, "every cycle's draft names its subscription"
    return draft.subscription_id
