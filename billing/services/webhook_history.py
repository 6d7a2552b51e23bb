"""Webhook path, beside it: what became of deliveries: lists, one with its attempts, and the dead letters.

Invariant: reading changes nothing; a list is in the order of its key, newest event first, so that a page never repeats
a row of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol, Self
from uuid import UUID

import queries.webhook_history as statements
from queries.webhook_history import ListAttemptsRow, ListDeadLettersRow

from billing.domain.errors import NotFound
from billing.domain.ids import Prefix, encode
from billing.domain.webhook import DeliveryStatus
from billing.runtime.db import Connection
from billing.services.webhook_subjects import check_patterns
from billing.services.webhooks import get_endpoint

ATTEMPTS_SHOWN_MAX: Final = 200
_NONCE_MAX: Final = 2**15 - 1
_NONCE_BYTES: Final = 2
_ID_BYTES: Final = 16
_LAST_ID: Final = UUID(int=2**128 - 1)


class DeliveryNotFound(NotFound):
    """The event was never to be delivered to this endpoint; ExplainDelivery says why."""

    reason = "DELIVERY_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class DeliveryKey:
    """What names a delivery within a tenant; `nonce` is 0 for the first and n for the n-th resend."""

    event_id: UUID
    webhook_id: UUID
    nonce: int

    SIZE = 2 * _ID_BYTES + _NONCE_BYTES

    def to_bytes(self) -> bytes:
        """As a page token holds it: SIZE bytes."""
        nonce = self.nonce.to_bytes(_NONCE_BYTES, "big")
        return self.event_id.bytes + self.webhook_id.bytes + nonce

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Of SIZE bytes."""
        return cls(
            UUID(bytes=raw[:_ID_BYTES]),
            UUID(bytes=raw[_ID_BYTES : 2 * _ID_BYTES]),
            int.from_bytes(raw[2 * _ID_BYTES :], "big"),
        )


NEWEST: Final = DeliveryKey(_LAST_ID, _LAST_ID, _NONCE_MAX)


class DeliveryRow(Protocol):
    """What every statement answers of a delivery."""

    @property
    def webhook_id(self) -> UUID:
        """The endpoint."""

    @property
    def event_id(self) -> UUID:
        """The event."""

    @property
    def nonce(self) -> int:
        """0 for the first delivery, n for the n-th resend."""

    @property
    def subject(self) -> str:
        """The event's subject."""

    @property
    def status(self) -> str:
        """A DeliveryStatus."""

    @property
    def attempts(self) -> int:
        """How many were claimed."""

    @property
    def forgiven(self) -> int:
        """How many of them the schedule does not count."""

    @property
    def due_at(self) -> datetime:
        """When the next attempt is due, or the claim of the present one ends."""

    @property
    def created_at(self) -> datetime:
        """When it was made."""

    @property
    def finished_at(self) -> datetime | None:
        """When it was delivered, given up or canceled."""


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries; None takes all. `subject` may end in `.*`."""

    webhook_id: UUID | None = None
    event_id: UUID | None = None
    status: DeliveryStatus | None = None
    subject: str | None = None


async def list_deliveries(
    tx: Connection, tenant_id: UUID, selected: DeliveryFilter, *, before: DeliveryKey, most: int
) -> Sequence[DeliveryRow]:
    """At most `most` deliveries before a key, newest event first. Raises EndpointNotFound or SubjectInvalid."""
    if selected.webhook_id is not None:
        await get_endpoint(tx, tenant_id, selected.webhook_id)
    exact, beginning = _split(selected.subject)
    return await statements.list_deliveries(
        tx,
        tenant_id=tenant_id,
        webhook_id=selected.webhook_id,
        event_id=selected.event_id,
        status=selected.status,
        subject=exact,
        beginning=beginning,
        before_event=before.event_id,
        before_webhook=before.webhook_id,
        before_nonce=before.nonce,
        most=most,
    )


def _split(subject: str | None) -> tuple[str | None, str | None]:
    """The exact subject or the beginning that a pattern asks for."""
    if subject is None:
        return None, None
    check_patterns([subject])
    if subject.endswith("*"):
        return None, subject[:-1]
    return subject, None


async def get_delivery(
    tx: Connection, tenant_id: UUID, key: DeliveryKey
) -> tuple[DeliveryRow, Sequence[ListAttemptsRow]]:
    """A delivery and its first 200 completed attempts. Raises DeliveryNotFound."""
    row = await statements.get_delivery(
        tx,
        tenant_id=tenant_id,
        webhook_id=key.webhook_id,
        event_id=key.event_id,
        nonce=key.nonce,
    )
    if row is None:
        raise delivery_not_found(key.webhook_id, key.event_id)
    attempts = await statements.list_attempts(
        tx,
        tenant_id=tenant_id,
        webhook_id=key.webhook_id,
        event_id=key.event_id,
        nonce=key.nonce,
        most=ATTEMPTS_SHOWN_MAX,
    )
    return row, attempts


def delivery_not_found(webhook_id: UUID, event_id: UUID) -> DeliveryNotFound:
    """The error that names both ids."""
    return DeliveryNotFound(
        metadata={
            "endpoint": encode(Prefix.WEBHOOK_ENDPOINT, webhook_id),
            "event": encode(Prefix.EVENT, event_id),
        }
    )


async def list_dead_letters(
    tx: Connection, tenant_id: UUID, webhook_id: UUID | None, *, before: DeliveryKey, most: int
) -> Sequence[ListDeadLettersRow]:
    """At most `most` dead letters before a key, newest event first. Raises EndpointNotFound."""
    if webhook_id is not None:
        await get_endpoint(tx, tenant_id, webhook_id)
    return await statements.list_dead_letters(
        tx,
        tenant_id=tenant_id,
        webhook_id=webhook_id,
        before_event=before.event_id,
        before_webhook=before.webhook_id,
        before_nonce=before.nonce,
        most=most,
    )


def message_id(event_id: UUID, nonce: int) -> str:
    """The webhook-id as the sender writes it: `evt_…`, and `evt_…_n` for the n-th resend."""
    text = encode(Prefix.EVENT, event_id)
    return f"{text}_{nonce}" if nonce else text
