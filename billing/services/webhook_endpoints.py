"""Webhook path, around both steps: the life of an endpoint after it was made.

Invariant: an endpoint's row is locked before its deliveries are moved, and the fan-out holds it while it makes them: so
each delivery is made before the change, and moved by it, or after it, and begins as it says. None is thrown away
uncounted. What a sender is posting at that moment may still arrive.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import queries.webhook_health
import queries.webhooks
from google.protobuf.message import Message
from queries.models import Webhook
from tollway.webhook.v1 import webhook_events_pb2 as told

from billing.domain.address import Network
from billing.domain.errors import EtagMismatch, Invalid
from billing.domain.ids import Prefix, encode
from billing.domain.webhook import (
    DELIVERY,
    DeliveryAction,
    DeliveryStatus,
    EndpointAction,
    EndpointStatus,
    apply_endpoint_lifecycle,
)
from billing.runtime.db import Connection
from billing.services import events
from billing.services.actor import Cause
from billing.services.business_time import business_time
from billing.services.tenants import get_tenant
from billing.services.webhook_headers import check_headers
from billing.services.webhook_subjects import check_wanted
from billing.services.webhook_url import check_url
from billing.services.webhooks import EndpointNotFound, Payload, pinned_version


class DisabledReason(StrEnum):
    """Why an endpoint is disabled."""

    TENANT = "tenant"
    GONE = "gone"  # it answered 410
    FAILING = "failing"  # 5 days of only failures


@dataclass(frozen=True, slots=True)
class EndpointChange:
    """What to change: None leaves it. `etag` empty changes whatever is there.

    `allowed` are the networks that the operator allows beside the public internet.
    """

    url: str | None = None
    subjects: Sequence[str] | None = None
    description: str | None = None
    headers: Mapping[str, str] | None = None
    metadata: Mapping[str, str] | None = None
    payload: Payload | None = None
    rate_per_second: int | None = None
    schema_version: int | None = None
    etag: str = ""
    allowed: Sequence[Network] = ()


CHANGEABLE: Final = tuple(
    field.name
    for field in dataclasses.fields(EndpointChange)
    if field.name not in {"etag", "allowed"}
)
# What an endpoint's step does to its deliveries.
_MOVES: Final = {
    EndpointAction.DISABLE: (DeliveryAction.PARK, DeliveryStatus.PARKED),
    EndpointAction.ENABLE: (DeliveryAction.UNPARK, DeliveryStatus.PENDING),
    EndpointAction.DELETE: (DeliveryAction.CANCEL, DeliveryStatus.CANCELED),
}


def etag_of(webhook: Webhook) -> str:
    """What changes with every change."""
    return str(webhook.version)


async def list_endpoints(
    tx: Connection, tenant_id: UUID, *, before: UUID | None, limit: int
) -> list[Webhook]:
    """At most `limit` endpoints that are not deleted, newest first, those made before `before`."""
    return await queries.webhooks.list_webhooks(
        tx, tenant_id=tenant_id, before=before, page_max=limit
    )


async def update_endpoint(
    tx: Connection,
    tenant_id: UUID,
    webhook_id: UUID,
    change: EndpointChange,
    cause: Cause,
    *,
    now: datetime,
) -> Webhook:
    """The changed endpoint; emits webhook.endpoint.updated.

    Raises EndpointNotFound, EtagMismatch, UrlNotAllowed, SubjectInvalid, HeaderNotAllowed, SchemaVersionUnknown, or
    Invalid when nothing is to be changed.
    """
    if all(getattr(change, name) is None for name in CHANGEABLE):
        raise Invalid.field("update_mask", f"must name a field: {', '.join(CHANGEABLE)}")
    before = await lock_endpoint(tx, tenant_id, webhook_id)
    if change.etag and change.etag != etag_of(before):
        raise EtagMismatch(metadata={"endpoint": _name(webhook_id)})
    if change.url is not None:
        tenant = await get_tenant(tx, tenant_id)
        check_url(change.url, test_mode=tenant.mode == "test", allowed=change.allowed)
    after = await _write(tx, _changed(before, change))
    payload = told.WebhookEndpointUpdated(
        endpoint_id=_name(webhook_id), url=after.url, subjects=after.subjects
    )
    await _tell(tx, after, payload, cause, now)
    return after


def _changed(webhook: Webhook, change: EndpointChange) -> Webhook:
    given = {
        name: _STORED.get(name, _as_it_is)(value)
        for name in CHANGEABLE
        if (value := getattr(change, name)) is not None
    }
    return dataclasses.replace(webhook, **given)


def _as_it_is(value: Any) -> Any:
    return value


# How a changed field is checked and stored; the others are stored as they are given.
_STORED: Final[Mapping[str, Callable[[Any], Any]]] = {
    "subjects": check_wanted,
    "headers": lambda headers: json.dumps(check_headers(headers)),
    "metadata": lambda metadata: json.dumps(dict(metadata)),
    "payload": lambda payload: payload.value,
    "schema_version": pinned_version,
}


async def enable_endpoint(
    tx: Connection, tenant_id: UUID, webhook_id: UUID, cause: Cause, *, now: datetime
) -> Webhook:
    """Takes deliveries again, the parked ones at once; emits webhook.endpoint.enabled.

    Raises EndpointNotFound or InvalidTransition.
    """
    payload = told.WebhookEndpointEnabled(endpoint_id=_name(webhook_id))
    return await _enable(tx, tenant_id, webhook_id, payload, cause, now)


async def revive_endpoint(
    tx: Connection, tenant_id: UUID, webhook_id: UUID, cause: Cause, *, now: datetime
) -> Webhook:
    """The same after a probe that was answered; emits webhook.endpoint.recovered in its place."""
    payload = told.WebhookEndpointRecovered(endpoint_id=_name(webhook_id))
    return await _enable(tx, tenant_id, webhook_id, payload, cause, now)


async def _enable(
    tx: Connection,
    tenant_id: UUID,
    webhook_id: UUID,
    payload: Message,
    cause: Cause,
    now: datetime,
) -> Webhook:
    before = await lock_endpoint(tx, tenant_id, webhook_id)
    after = await _step(tx, before, EndpointAction.ENABLE, "", now)
    # Its failures of before are past: the 5 days begin with the next one.
    await queries.webhook_health.forget_health(tx, tenant_id=tenant_id, webhook_id=webhook_id)
    await _tell(tx, after, payload, cause, now)
    return after


async def disable_endpoint(
    tx: Connection,
    tenant_id: UUID,
    webhook_id: UUID,
    reason: DisabledReason,
    cause: Cause,
    *,
    now: datetime,
) -> Webhook:
    """Parks its deliveries, and those to come; emits webhook.endpoint.disabled.

    Raises EndpointNotFound or InvalidTransition.
    """
    payload = told.WebhookEndpointDisabled(endpoint_id=_name(webhook_id), reason=reason)
    before = await lock_endpoint(tx, tenant_id, webhook_id)
    after = await _step(tx, before, EndpointAction.DISABLE, reason, now)
    await _tell(tx, after, payload, cause, now)
    return after


async def delete_endpoint(
    tx: Connection, tenant_id: UUID, webhook_id: UUID, cause: Cause, *, now: datetime
) -> Webhook:
    """Ends it for ever, and cancels what is not delivered; emits webhook.endpoint.deleted. Raises EndpointNotFound."""
    payload = told.WebhookEndpointDeleted(endpoint_id=_name(webhook_id))
    before = await lock_endpoint(tx, tenant_id, webhook_id)
    after = await _step(tx, before, EndpointAction.DELETE, "", now)
    await _tell(tx, after, payload, cause, now)
    return after


async def ping_endpoint(
    tx: Connection, tenant_id: UUID, webhook_id: UUID, cause: Cause, *, now: datetime
) -> UUID:
    """Emits webhook.ping, which the fan-out gives to this endpoint alone; its id. Raises EndpointNotFound."""
    webhook = await _write(tx, await lock_endpoint(tx, tenant_id, webhook_id))
    payload = told.WebhookPing(endpoint_id=_name(webhook_id))
    return await _tell(tx, webhook, payload, cause, now)


async def touch_endpoint(
    tx: Connection, webhook: Webhook, payload: Message, cause: Cause, now: datetime
) -> None:
    """Tells a change that stands in other tables, under the endpoint's next version."""
    await _tell(tx, await _write(tx, webhook), payload, cause, now)


async def lock_endpoint(tx: Connection, tenant_id: UUID, webhook_id: UUID) -> Webhook:
    """The endpoint, held until the transaction ends. Raises EndpointNotFound for a deleted one, too."""
    webhook = await queries.webhooks.lock_webhook(tx, tenant_id=tenant_id, id=webhook_id)
    if webhook is None:
        raise EndpointNotFound(metadata={"endpoint": _name(webhook_id)})
    return webhook


async def _step(
    tx: Connection, before: Webhook, action: EndpointAction, reason: str, now: datetime
) -> Webhook:
    status, _ = apply_endpoint_lifecycle(EndpointStatus(before.status), action, now)
    after = await _write(
        tx, dataclasses.replace(before, status=status.value, disabled_reason=reason)
    )
    deliveries, becomes = _MOVES[action]
    # What has died stays in the dead letters, where people look for it.
    sources = [s.value for s in DELIVERY.sources(deliveries) if s is not DeliveryStatus.DEAD]
    await queries.webhooks.move_deliveries(
        tx,
        tenant_id=after.tenant_id,
        webhook_id=after.id,
        sources=sources,
        status=becomes.value,
        now=now,
    )
    return after


async def _write(tx: Connection, webhook: Webhook) -> Webhook:
    written = await queries.webhooks.update_webhook(
        tx,
        tenant_id=webhook.tenant_id,
        id=webhook.id,
        version=webhook.version,
        url=webhook.url,
        subjects=webhook.subjects,
        description=webhook.description,
        headers=webhook.headers,
        metadata=webhook.metadata,
        payload=webhook.payload,
        rate_per_second=webhook.rate_per_second,
        schema_version=webhook.schema_version,
        status=webhook.status,
        disabled_reason=webhook.disabled_reason,
    )
    assert written is not None, "the row is locked at this version"
    return written


async def _tell(
    tx: Connection, webhook: Webhook, payload: Message, cause: Cause, now: datetime
) -> UUID:
    at = await business_time(tx, webhook.tenant_id, now)
    event = events.NewEvent(
        webhook.tenant_id, _name(webhook.id), webhook.version, payload, at, cause
    )
    [event_id] = await events.emit(tx, [event], now=now)
    return event_id


def _name(webhook_id: UUID) -> str:
    return encode(Prefix.WEBHOOK_ENDPOINT, webhook_id)
