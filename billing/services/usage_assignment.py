"""Usage path, beside step 2: usage that no subscription covered goes to the one that comes to cover it.

Invariant: whoever makes or widens coverage looks for unassigned usage in the same transaction, under the customer's
lock: so a fold has either written a record as unassigned before, or sees the coverage.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import queries.subscriptions
import queries.usage
import queries.usage_revisions
from queries.models import Subscription

from billing.runtime.db import Connection
from billing.services.usage_revisions import (
    REVISED_AT_ONCE_MAX,
    Author,
    Change,
    revise_as_they_are,
)


async def assign_unassigned(
    tx: Connection, tenant_id: UUID, subscription_id: UUID, author: Author, *, now: datetime
) -> int:
    """Lets unassigned usage that the subscription covers find it; returns how many records are on their way.

    For callers that hold the customer. At most 20,000 at once, the oldest first; the rest stays unassigned.
    """
    rows = await queries.usage_revisions.list_unassigned_roots(
        tx, tenant_id=tenant_id, subscription_id=subscription_id, most=REVISED_AT_ONCE_MAX
    )
    roots = [row.root_key for row in rows]
    return await revise_as_they_are(tx, tenant_id, roots, author, now=now)


async def require_subscription(tx: Connection, row: Subscription) -> int:
    """From now on usage of its metered items must name the subscription; returns how many items it has.

    Then another subscription of the customer may price the same meters. What has an owner keeps it.
    """
    await queries.subscriptions.lock_customer(tx, tenant_id=row.tenant_id, id=row.customer_id)
    return await queries.usage.require_subscription(
        tx, tenant_id=row.tenant_id, subscription_id=row.id
    )


async def assign_usage(
    tx: Connection,
    row: Subscription,
    keys: Sequence[str],
    author: Author,
    *,
    now: datetime,
) -> tuple[int, bool]:
    """The same by hand; with `keys`, unassigned records of the customer name the subscription from now on.

    Answers how many are on their way, and whether there may be more.
    """
    await queries.subscriptions.lock_customer(tx, tenant_id=row.tenant_id, id=row.customer_id)
    if not keys:
        count = await assign_unassigned(tx, row.tenant_id, row.id, author, now=now)
        return count, count >= REVISED_AT_ONCE_MAX
    roots = await queries.usage_revisions.list_unassigned_of_keys(
        tx, tenant_id=row.tenant_id, customer_id=row.customer_id, keys=keys
    )
    change = Change(subscription_id=row.id)
    return await revise_as_they_are(tx, row.tenant_id, roots, author, now=now, change=change), False
