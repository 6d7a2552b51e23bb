"""Every path: business time, the clock of trials, cycles, grace and usage.

Invariant: a tenant's business time is its test clock's when it has one, and machine time otherwise; it is read in the
transaction that acts on it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

import queries.clocks

from billing.runtime.db import Connection


async def business_times(
    tx: Connection, tenant_ids: Collection[UUID], now: datetime
) -> dict[UUID, datetime]:
    """The business time of each tenant; `now` is machine time."""
    times = dict.fromkeys(tenant_ids, now)
    rows = await queries.clocks.list_business_times(tx, tenant_ids=sorted(times))
    times.update((row.tenant_id, row.business_time) for row in rows)
    return times


async def business_time(tx: Connection, tenant_id: UUID, now: datetime) -> datetime:
    """The business time of one tenant; `now` is machine time."""
    return (await business_times(tx, [tenant_id], now))[tenant_id]
