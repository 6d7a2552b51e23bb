"""Invoice path, step 4: which usage periods a draft bills for the first time, and which it adjusts.

Invariant: a preview reads the very set that finalization would lock; a marked period is adjusted by one draft only, the
first of its subscription to get a number. So drafts that become final together, after an outage, adjust what they would
have adjusted one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import queries.finalization
import queries.invoices
from queries.models import Invoice, UsagePeriod

from billing.domain.usage import UsagePeriodStatus
from billing.runtime.db import Connection
from billing.services.draft_claims import Claimed, billed_by
from billing.services.draft_money import in_order


@dataclass(frozen=True, slots=True)
class DraftPeriods:
    """The usage periods of a draft's own key, and those billed before that it adjusts, each by item and start."""

    own: list[UsagePeriod] = field(default_factory=list)
    adjusted: list[UsagePeriod] = field(default_factory=list)

    def __iter__(self) -> Iterator[UsagePeriod]:
        yield from self.own
        yield from self.adjusted


PeriodsByDraft = Mapping[UUID, DraftPeriods]
_Key = tuple[UUID, UUID | None, str | None, datetime | None]


async def lock_periods(tx: Connection, claimed: Sequence[Claimed]) -> list[UsagePeriod]:
    """The usage periods that the drafts bill or adjust, locked; for callers that hold their subscriptions' locks."""
    return await queries.finalization.lock_periods_to_bill(tx, **billed_by(claimed))


async def list_periods(tx: Connection, drafts: Sequence[Invoice]) -> list[UsagePeriod]:
    """The same without locks, for a preview in one snapshot."""
    own = [draft for draft in drafts if draft.subscription_id is not None]
    return await queries.invoices.list_periods_to_bill(
        tx,
        tenant_ids=[draft.tenant_id for draft in own],
        subscription_ids=[draft.subscription_id for draft in own if draft.subscription_id],
        kinds=[draft.kind for draft in own],
        boundaries=[draft.boundary for draft in own],
    )


def share_out(drafts: Sequence[Invoice], periods: Sequence[UsagePeriod]) -> PeriodsByDraft:
    """Each draft's part of the periods.

    A marked period goes to the draft of its subscription that gets the first number: the first to be due, and of two
    that are due at once the one made first (`in_order`).
    """
    shares: dict[UUID, DraftPeriods] = defaultdict(DraftPeriods)
    by_key: dict[_Key, Invoice] = {}
    first: dict[tuple[UUID, UUID | None], Invoice] = {}
    for draft in in_order(drafts):
        by_key[draft.tenant_id, draft.subscription_id, draft.kind, draft.boundary] = draft
        first.setdefault((draft.tenant_id, draft.subscription_id), draft)
    for row in periods:
        if row.status == UsagePeriodStatus.BILLED:
            taker = first.get((row.tenant_id, row.subscription_id))
            if taker is not None:
                shares[taker.id].adjusted.append(row)
        else:
            owner = by_key.get(
                (row.tenant_id, row.subscription_id, row.bill_kind, row.bill_boundary)
            )
            if owner is not None:
                shares[owner.id].own.append(row)
    return shares
