"""Usage path, step 3: periods whose running charges move though nothing was reported.

Invariant: a level that stands when a usage period begins is charged from then on, and what a change or an end has cut
is rated anew, each for the event that told of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import queries.rating
from queries.models import Subscription

from billing.runtime.db import Connection
from billing.services.actor import Link


class Begun(NamedTuple):
    """A subscription whose usage periods begin at an instant, and the event that tells it."""

    row: Subscription
    at: datetime
    why: Link


async def mark_standing_levels(tx: Connection, begun: Sequence[Begun]) -> None:
    """Makes the beginning periods of levels that stand due. For callers that hold the subscriptions."""
    tenants = sorted({one.row.tenant_id for one in begun})
    # Most tenants have no levels, and cycles are closed by the thousand.
    levelled = set(await queries.rating.list_tenants_with_levels(tx, tenant_ids=tenants))
    begun = [one for one in begun if one.row.tenant_id in levelled]
    if not begun:
        return
    await queries.rating.mark_standing_levels(
        tx,
        tenant_ids=[one.row.tenant_id for one in begun],
        subscription_ids=[one.row.id for one in begun],
        begins_ats=[one.at for one in begun],
        event_ids=[one.why.event_id for one in begun],
        correlation_ids=[one.why.correlation_id for one in begun],
    )


async def mark_cut_usage(tx: Connection, cut: Begun) -> None:
    """Makes periods that end at the instant, and were rated before, due once more; what begins there as well."""
    await queries.rating.mark_cut_usage(
        tx,
        tenant_id=cut.row.tenant_id,
        subscription_id=cut.row.id,
        cut_at=cut.at,
        event_id=cut.why.event_id,
        correlation_id=cut.why.correlation_id,
    )
    await mark_standing_levels(tx, [cut])
