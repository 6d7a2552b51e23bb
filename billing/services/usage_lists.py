"""Usage path, beside it: records listed and what belongs to nobody, for those who look.

Invariant: a page is read by an index of its own kind: nobody's list grows slower with other customers' records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import queries.usage_lists
from queries.usage_lists import ListUnassignedUsageRow

from billing.domain.errors import Invalid
from billing.runtime.db import Connection
from billing.services.rows import UsageRevision
from billing.services.usage_records import UsageState

_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
_END: Final = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which records. Absent fields let all pass; [since, until) is of the records' own timestamps."""

    customer_id: UUID | None = None
    subscription_id: UUID | None = None
    meter_id: UUID | None = None
    state: UsageState | None = None
    batch_id: UUID | None = None
    backfill_id: UUID | None = None
    item_id: UUID | None = None
    period_start: datetime | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class ListPlace:
    """Behind which record a page begins: its timestamp and its key."""

    at: datetime
    key: str


async def list_usage(
    tx: Connection, tenant_id: UUID, wanted: UsageFilter, behind: ListPlace | None, *, limit: int
) -> Sequence[UsageRevision]:
    """Records as they count now, newest first, at most `limit`.

    Raises Invalid when the filter names nobody: all records of a tenant have no order that an index has.
    """
    place = behind or ListPlace(wanted.until or _END, "")
    if wanted.batch_id is not None or wanted.backfill_id is not None:
        return await _of_batches(tx, tenant_id, wanted, place, limit)
    named = (wanted.customer_id, wanted.subscription_id, wanted.item_id)
    if named == (None, None, None) and wanted.state not in (
        UsageState.UNASSIGNED,
        UsageState.PENDING,
    ):
        raise Invalid(
            "Say whose usage: a customer, a subscription, an item, a batch or a backfill;"
            " or ask for what is unassigned or pending."
        )
    return await queries.usage_lists.list_usage(
        tx,
        tenant_id=tenant_id,
        customer_id=wanted.customer_id,
        subscription_id=wanted.subscription_id,
        item_id=wanted.item_id,
        period_start=wanted.period_start,
        meter_id=wanted.meter_id,
        state=wanted.state,
        since=wanted.since or _BEGINNING,
        before_at=place.at,
        before_key=place.key,
        page_max=limit,
    )


async def _of_batches(
    tx: Connection, tenant_id: UUID, wanted: UsageFilter, place: ListPlace, limit: int
) -> Sequence[UsageRevision]:
    return await queries.usage_lists.list_usage_of_batches(
        tx,
        tenant_id=tenant_id,
        batch_id=wanted.batch_id,
        backfill_id=wanted.backfill_id,
        customer_id=wanted.customer_id,
        meter_id=wanted.meter_id,
        state=wanted.state,
        since=wanted.since or _BEGINNING,
        before_at=place.at,
        before_key=place.key,
        page_max=limit,
    )


async def list_unassigned(
    tx: Connection,
    tenant_id: UUID,
    customer_id: UUID | None,
    after: tuple[UUID, UUID] | None,
    *,
    limit: int,
) -> Sequence[ListUnassignedUsageRow]:
    """What belongs to no subscription, by customer and meter, behind the pair `after`."""
    return await queries.usage_lists.list_unassigned_usage(
        tx,
        tenant_id=tenant_id,
        customer_id=customer_id,
        after_customer_id=after[0] if after else None,
        after_meter_id=after[1] if after else None,
        page_max=limit,
    )
