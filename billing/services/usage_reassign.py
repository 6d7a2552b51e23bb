"""Usage path, beside step 2: records find another owner when coverage is made, moved or ended.

Invariant: a record is never edited: it gets a further revision, drawn under the root record's lock, which the fold
gives its owner, as any other. So each record counts once, wherever it belongs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import queries.usage_reassign
from queries.models import Subscription

from billing.runtime.db import Connection
from billing.services.subscription_hold import Moment
from billing.services.usage_revisions import Author, revise_as_they_are

NOTE: Final = "the subscription changed"  # which the revisions keep


async def reassign_usage(
    tx: Connection,
    row: Subscription,
    *,
    item_ids: Sequence[UUID],
    meter_ids: Sequence[UUID],
    at: datetime,
    moment: Moment,
) -> int:
    """Sends the folded records of these items, or of none, with a timestamp from `at` on to the fold again.

    For callers that hold customer and subscription and have moved the usage periods. Returns how many; emits
    usage.reported when there are any.
    """
    if not meter_ids:
        return 0
    roots = await queries.usage_reassign.list_roots_from(
        tx,
        tenant_id=row.tenant_id,
        customer_id=row.customer_id,
        meter_ids=list(meter_ids),
        item_ids=list(item_ids),
        at=at,
    )
    author = Author(moment.cause, NOTE)
    return await revise_as_they_are(tx, row.tenant_id, roots, author, now=moment.now)
