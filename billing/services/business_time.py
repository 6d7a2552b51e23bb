"""Every path: business time, the clock of trials, cycles, grace and usage.

Invariant: a tenant's business time is its test clock's when it has one, and machine time otherwise; it is read in the
transaction that acts on it. Only what never changes is remembered: that a tenant is in live mode, and so never has one.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.clocks

from billing.runtime.db import Connection

LIVE_REMEMBERED_MAX: Final = 200_000
_live: set[UUID] = set()


async def business_times(
    tx: Connection, tenant_ids: Collection[UUID], now: datetime
) -> dict[UUID, datetime]:
    """The business time of each tenant; `now` is machine time."""
    times = dict.fromkeys(tenant_ids, now)
    asked = sorted(times.keys() - _live)
    if not asked:
        return times
    if len(_live) >= LIVE_REMEMBERED_MAX:
        _live.clear()
    for row in await queries.clocks.list_business_times(tx, tenant_ids=asked):
        if row.live:
            _live.add(row.tenant_id)
        elif row.business_time is not None:
            times[row.tenant_id] = row.business_time
    return times


async def business_time(tx: Connection, tenant_id: UUID, now: datetime) -> datetime:
    """The business time of one tenant; `now` is machine time."""
    return (await business_times(tx, [tenant_id], now))[tenant_id]
