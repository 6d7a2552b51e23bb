"""Usage path, beside step 2: records find another owner when coverage is made, moved or ended.

Invariant: a record is never edited: it gets a further revision in a batch of its own, drawn under the root record's lock,
which the fold gives its owner, as any other. So each record counts once, wherever it belongs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import queries.usage_reassign
from queries.models import Subscription
from tollway.usage.v1 import usage_events_pb2 as payloads

from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.subscription_hold import Moment


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
    roots = await queries.usage_reassign.lock_roots_from(
        tx,
        tenant_id=row.tenant_id,
        customer_id=row.customer_id,
        meter_ids=list(meter_ids),
        item_ids=list(item_ids),
        at=at,
    )
    if not roots:
        return 0
    batch_id = new_id(moment.now)
    resource = encode(Prefix.USAGE_BATCH, batch_id)
    counts = await queries.usage_reassign.insert_reassigned(
        tx,
        tenant_id=row.tenant_id,
        root_keys=list(roots),
        key_prefix=f"{resource}:",
        batch_id=batch_id,
        accepted_at=moment.today,
    )
    payload = payloads.UsageReported(
        batch_id=resource,
        record_count=len(roots),
        counts=[
            payloads.UsageCount(
                customer_id=encode(Prefix.CUSTOMER, count.customer_id),
                meter_id=encode(Prefix.METER, count.meter_id),
                record_count=count.records,
            )
            for count in counts
        ],
    )
    event = events.NewEvent(row.tenant_id, resource, 1, payload, moment.today, moment.cause)
    await events.emit(tx, [event], now=moment.now)
    return len(roots)
