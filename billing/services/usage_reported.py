"""Usage path, step 1: the event that tells of a batch, whatever it was made of: new records or further revisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from tollway.usage.v1 import usage_events_pb2 as payloads

from billing.domain.ids import Prefix, encode
from billing.services import events
from billing.services.actor import Cause


def usage_reported(
    tenant_id: UUID, batch_id: UUID, owners: Iterable[tuple[UUID, UUID]], cause: Cause, at: datetime
) -> events.NewEvent:
    """The event of a batch; `owners` has the customer and the meter of each of its records. `at` is business time."""
    counts = Counter(owners)
    resource = encode(Prefix.USAGE_BATCH, batch_id)
    payload = payloads.UsageReported(
        batch_id=resource,
        record_count=counts.total(),
        counts=[
            payloads.UsageCount(
                customer_id=encode(Prefix.CUSTOMER, customer_id),
                meter_id=encode(Prefix.METER, meter_id),
                record_count=count,
            )
            for (customer_id, meter_id), count in counts.items()
        ],
    )
    return events.NewEvent(tenant_id, resource, 1, payload, at, cause)
