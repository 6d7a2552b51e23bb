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

import queries.subscription_changes
import queries.subscriptions
from queries.models import Subscription
from queries.subscription_changes import ListChangesDueOnTestClocksRow, ListChangesDueRow

from billing.domain.subscription import SubscriptionStatus
from billing.runtime.db import Connection, Database
from billing.runtime.ids import new_id
from billing.services.actor import Cause
from billing.services.business_time import business_times
from billing.services.cycles import close_due
from billing.services.draft_claims import OnTestClocks
from billing.services.late_usage import bill_late_usage
from billing.services.subscription_catch_up import catch_up
from billing.services.subscription_hold import Moment, hold, read_instant
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
    ended = [row for row in rows if row.status == SubscriptionStatus.CANCELED]
    others = (SubscriptionStatus.ACTIVE, SubscriptionStatus.CANCELED)
    starting = [row for row in rows if row.status not in others]
    await move_on(tx, starting, today, causes, now=now)
    await close_due(tx, renewing, today, causes, now=now)
    await bill_late_usage(tx, ended, today, causes, now=now)
    return len(rows)


async def run_changes(
    database: Database,
    *,
    batch_max: int,
    now: datetime,
    scope: OnTestClocks | None = None,
) -> int:
    """Executes scheduled changes that are due, each in a transaction of its own; returns how many it looked at.

    Apart from the other due work: a change takes the customer's lock, which comes before the subscription's. Without a
    scope, those of tenants that live in machine time.
    """
    async with database.transaction() as tx:
        due = await _list_changes_due(tx, batch_max, now, scope)
    for one in due:
        async with database.transaction() as tx:
            row = await hold(tx, one.tenant_id, one.id)
            if row.change_due_at is None:
                continue  # another scheduler was first
            today = await read_instant(tx, row)
            at = min(row.change_due_at, today)
            await catch_up(tx, row, Moment(at, today, Cause(SCHEDULER, new_id(now)), now))
    return len(due)


async def _list_changes_due(
    tx: Connection, batch_max: int, now: datetime, scope: OnTestClocks | None
) -> Sequence[ListChangesDueRow | ListChangesDueOnTestClocksRow]:
    if scope is None:
        return await queries.subscription_changes.list_changes_due(tx, now=now, batch_max=batch_max)
    return await queries.subscription_changes.list_changes_due_on_test_clocks(
        tx, tenant_id=scope.tenant_id, batch_max=batch_max
    )


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
