"""Subscription path, step 2, and invoice path, step 1: what the scheduler does in one transaction.

Invariant: due rows are claimed with SKIP LOCKED, acted on set-based and moved to their next due time before the
commit, so two schedulers never act on one subscription, and a crash leaves everything due.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import queries.subscriptions
from queries.models import Subscription

from billing.domain.subscription import SubscriptionStatus
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services.actor import Cause
from billing.services.business_time import business_times
from billing.services.cycles import close_due
from billing.services.subscription_lifecycle import move_on

SCHEDULER: Final = "worker:scheduler"


class Share(StrEnum):
    """Whose due rows a step takes, and from which end."""

    OLDEST = "oldest"
    NEWEST = "newest"
    ON_TEST_CLOCKS = "on_test_clocks"


async def run_due(
    tx: Connection, share: Share, *, batch_max: int, now: datetime, tenant_id: UUID | None = None
) -> int:
    """Starts, activates and renews at most `batch_max` due subscriptions; one period each. Returns how many.

    `now` is machine time, which is the business time of tenants without a test clock. `tenant_id` narrows
    ON_TEST_CLOCKS.
    """
    rows = await _claim(tx, share, batch_max, now, tenant_id)
    if not rows:
        return 0
    today = await business_times(tx, {row.tenant_id for row in rows}, now)
    # A scheduled event has many parents, or none: it begins a correlation of its own.
    causes = {row.id: Cause(SCHEDULER, new_id(now)) for row in rows}
    renewing = [row for row in rows if row.status == SubscriptionStatus.ACTIVE]
    starting = [row for row in rows if row.status != SubscriptionStatus.ACTIVE]
    await move_on(tx, starting, today, causes, now=now)
    await close_due(tx, renewing, today, causes, now=now)
    return len(rows)


async def _claim(
    tx: Connection, share: Share, batch_max: int, now: datetime, tenant_id: UUID | None
) -> Sequence[Subscription]:
    match share:
        case Share.OLDEST:
            return await queries.subscriptions.claim_oldest_due(tx, now=now, batch_max=batch_max)
        case Share.NEWEST:
            return await queries.subscriptions.claim_newest_due(tx, now=now, batch_max=batch_max)
        case Share.ON_TEST_CLOCKS:
            return await queries.subscriptions.claim_due_on_test_clocks(
                tx, tenant_id=tenant_id, batch_max=batch_max
            )
