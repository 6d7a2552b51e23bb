"""Webhook path, beside it: a person sends an event to an endpoint again.

Invariant: a resend is a delivery of its own under the next nonce; the row and its count as matched are committed
together, and the endpoint's row lock keeps two resends from one nonce.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

import queries.webhook_history as statements

from billing.domain.errors import Precondition
from billing.domain.ids import Prefix, encode
from billing.domain.webhook import DeliveryStatus, EndpointStatus
from billing.runtime import hints
from billing.runtime.db import Connection
from billing.services.event_log import EventNotFound
from billing.services.webhook_history import (
    DeliveryKey,
    DeliveryRow,
    delivery_not_found,
)
from billing.services.webhooks import EndpointNotFound

RESENDS_MAX: Final = 1_000
# The routers' partitions are from 0.
RESENT_PARTITION: Final = -1
BEGINS_AS: Final = {
    EndpointStatus.ENABLED.value: DeliveryStatus.PENDING,
    EndpointStatus.DISABLED.value: DeliveryStatus.PARKED,
}


class ResendLimitReached(Precondition):
    """An event is resent to an endpoint at most 1000 times; have the receiver take it, or replay the stretch."""

    reason = "RESEND_LIMIT_REACHED"


async def resend(
    tx: Connection,
    tenant_id: UUID,
    first: DeliveryKey,
    *,
    now: datetime,
) -> DeliveryRow:
    """The new delivery of what `first` names, due now, or parked while the endpoint is disabled.

    Raises EndpointNotFound, DeliveryNotFound, EventNotFound or ResendLimitReached.
    """
    webhook_id, event_id = first.webhook_id, first.event_id
    endpoint = await statements.lock_endpoint(tx, tenant_id=tenant_id, id=webhook_id)
    if endpoint is None or endpoint.status not in BEGINS_AS:
        raise EndpointNotFound(metadata={"endpoint": encode(Prefix.WEBHOOK_ENDPOINT, webhook_id)})
    latest = await statements.get_latest_delivery(
        tx, tenant_id=tenant_id, webhook_id=webhook_id, event_id=event_id
    )
    if latest is None:
        raise delivery_not_found(webhook_id, event_id)
    if latest.nonce >= RESENDS_MAX:
        raise ResendLimitReached(metadata={"limit": str(RESENDS_MAX)})
    if not await statements.has_event(tx, tenant_id=tenant_id, event_id=event_id):
        raise EventNotFound(
            "The event is older than the log's retention, so its body is gone.",
            metadata={"event": encode(Prefix.EVENT, event_id)},
        )
    made = await statements.insert_resend(
        tx,
        tenant_id=tenant_id,
        webhook_id=webhook_id,
        event_id=event_id,
        nonce=latest.nonce + 1,
        shard=endpoint.shard,
        subject=latest.subject,
        status=BEGINS_AS[endpoint.status],
        partition=RESENT_PARTITION,
        now=now,
    )
    hints.wake(hints.DELIVERIES)
    assert made is not None, "an INSERT without a conflict clause returns its row"
    return made
