"""Webhook path, step 2, its end: deliveries that were given up are told of.

Invariant: a delivery that dies is told of once, in the transaction that makes it dead; one that carried an event about
webhooks is not, since its news could die the same way, and be told of, without end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from tollway.webhook.v1 import webhook_events_pb2

from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.business_time import business_times

ACTOR: Final = "worker:sender"
_ABOUT_WEBHOOKS: Final = "webhook."


@dataclass(frozen=True, slots=True)
class Exhausted:
    """A delivery that was given up; `subject` is its event's."""

    tenant_id: UUID
    webhook_id: UUID
    event_id: UUID
    nonce: int
    attempts: int
    subject: str


async def tell_exhausted(tx: Connection, dead: Sequence[Exhausted], now: datetime) -> None:
    """Emits webhook.delivery.exhausted for each; not for events about webhooks, of which it would make more."""
    told = [gone for gone in dead if not gone.subject.startswith(_ABOUT_WEBHOOKS)]
    if not told:
        return
    at = await business_times(tx, {gone.tenant_id for gone in told}, now)
    new = [
        events.NewEvent(
            gone.tenant_id,
            encode(Prefix.EVENT, gone.event_id),
            gone.nonce + 1,
            webhook_events_pb2.WebhookDeliveryExhausted(
                endpoint_id=encode(Prefix.WEBHOOK_ENDPOINT, gone.webhook_id),
                event_id=encode(Prefix.EVENT, gone.event_id),
                resend=gone.nonce,
                subject=gone.subject,
                attempts=gone.attempts,
            ),
            at[gone.tenant_id],
            Cause(ACTOR, new_id(now), gone.event_id),
        )
        for gone in told
    ]
    await events.emit(tx, new, now=now)
