"""Usage path, step 3: the ratings that failed, for the people who can mend the cause.

Invariant: a failure stands until a rating succeeds; it is tried again by itself with growing pauses of at most ten
minutes, and at once when somebody asks.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import queries.rating
from queries.rating import ListRatingFailuresRow, RetryRatingRow

from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.services.subscriptions import SubscriptionNotFound

Position = tuple[UUID, UUID]  # tenant, subscription
START: Final[Position] = (UUID(int=0), UUID(int=0))


# A subscription whose last rating failed: an ErrorReason, the same for people, and when it is tried again.
RatingFailure = ListRatingFailuresRow | RetryRatingRow


async def list_failures(
    tx: Connection, tenant_id: UUID | None, *, after: Position, limit: int
) -> list[ListRatingFailuresRow]:
    """At most `limit` failures behind a place in their order, of one tenant or, for a worker, of all (None)."""
    return await queries.rating.list_rating_failures(
        tx, tenant_id=tenant_id, after_tenant_id=after[0], after_id=after[1], page_max=limit
    )


async def retry_rating(tx: Connection, tenant_id: UUID, subscription_id: UUID) -> RetryRatingRow:
    """Makes the subscription's rating, and the invoices that wait for it, due now. Raises SubscriptionNotFound."""
    row = await queries.rating.retry_rating(tx, tenant_id=tenant_id, id=subscription_id)
    if row is None:
        raise SubscriptionNotFound(
            metadata={"subscription": encode(Prefix.SUBSCRIPTION, subscription_id)}
        )
    await queries.rating.retry_blocked_drafts(
        tx, tenant_id=tenant_id, subscription_id=subscription_id
    )
    return row
