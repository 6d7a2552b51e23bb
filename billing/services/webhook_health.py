"""Webhook path, after step 2: what the answers of an endpoint mean for the endpoint itself.

Invariant: only what the receiver said counts; a fault of the house disables nobody. The endpoint's row is locked first,
in a transaction after the one that recorded the attempts: if that one is the last that a sender does, the next attempt
meets the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from billing.domain.webhook import EndpointStatus, should_disable
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import webhook_endpoints
from billing.services.actor import Cause
from billing.services.webhook_deliveries import Attempt
from billing.services.webhook_endpoints import DisabledReason
from billing.services.webhooks import EndpointNotFound

ACTOR: Final = "worker:sender"


def gone_endpoints(attempts: Sequence[Attempt], now: datetime) -> list[Attempt]:
    """One attempt of each endpoint that said that it is gone; empty almost always."""
    said = {
        attempt.claimed.webhook_id: attempt
        for attempt in attempts
        if attempt.response_status is not None
        and should_disable(attempt.response_status, None, now)
    }
    return list(said.values())


async def disable_gone(tx: Connection, attempt: Attempt, now: datetime) -> bool:
    """Disables the endpoint of this attempt and emits webhook.endpoint.disabled; whether it was still enabled.

    An answer from a URL that the endpoint no longer has says nothing about it.
    """
    tenant_id, webhook_id = attempt.claimed.tenant_id, attempt.claimed.webhook_id
    try:
        webhook = await webhook_endpoints.lock_endpoint(tx, tenant_id, webhook_id)
    except EndpointNotFound:
        return False
    if webhook.status != EndpointStatus.ENABLED or webhook.url != attempt.claimed.url:
        return False
    cause = Cause(ACTOR, new_id(now), attempt.claimed.event_id)
    await webhook_endpoints.disable_endpoint(
        tx, tenant_id, webhook_id, DisabledReason.GONE, cause, now=now
    )
    return True
