"""Webhook path, beside it: how well endpoints are served.

Invariant: every figure is drawn from committed rows of one snapshot, the newest deliveries of a window; a sender's
memory is not asked, so any process may answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias
from uuid import UUID

import queries.webhook_stats as statements
from queries.webhook_stats import GetTenantStatsRow, ListEndpointStatsRow

from billing.domain.webhook import BreakerState, breaker_state
from billing.runtime.db import Connection
from billing.services.webhooks import get_endpoint

WINDOW_DEFAULT: Final = timedelta(hours=24)
WINDOW_MAX: Final = timedelta(days=7)
# The newest deliveries of an endpoint that are looked at, alone and as a part of the tenant.
LOOKED_AT_MAX: Final = 10_000
LOOKED_AT_OF_TENANT_MAX: Final = 1_000
FIRST: Final = UUID(int=0)


EndpointRow: TypeAlias = ListEndpointStatsRow
Figures: TypeAlias = GetTenantStatsRow | EndpointRow


@dataclass(frozen=True, slots=True)
class Stats:
    """A page of endpoints, and the tenant as a whole."""

    endpoints: Sequence[EndpointRow]
    tenant: GetTenantStatsRow


async def get_stats(
    tx: Connection,
    tenant_id: UUID,
    webhook_id: UUID | None,
    window: timedelta,
    page: tuple[UUID, int],
    *,
    now: datetime,
) -> Stats:
    """At most so many endpoints above an id, as `page` says; `tx` reads one snapshot. Raises EndpointNotFound."""
    if webhook_id is not None:
        await get_endpoint(tx, tenant_id, webhook_id)
    after, most = page
    first = UUID(int=int((now - min(window, WINDOW_MAX)).timestamp() * 1000) << 80)
    rows = await statements.list_endpoint_stats(
        tx,
        first_event=first,
        most=LOOKED_AT_MAX,
        tenant_id=tenant_id,
        after=after,
        webhook_id=webhook_id,
        endpoints_max=most,
    )
    tenant = await statements.get_tenant_stats(
        tx, first_event=first, most=LOOKED_AT_OF_TENANT_MAX, tenant_id=tenant_id
    )
    assert tenant is not None, "an aggregate without groups returns one row"
    return Stats(rows, tenant)


def breaker_of(row: EndpointRow, now: datetime) -> BreakerState:
    """What the endpoint's breaker is; closed for one that has not failed."""
    return breaker_state(row.failures or 0, row.open_until, now)
