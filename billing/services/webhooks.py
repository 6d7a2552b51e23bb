"""Webhook path, before step 1: the endpoints of a tenant.

Invariant: an endpoint's secret is shown once, in the answer that made it, and stored only encrypted. An endpoint gets
the events that are fanned out after it was committed.
"""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import queries.webhooks
from queries.models import Webhook
from queries.webhooks import CountDeliveriesOfRow
from tollway.webhook.v1 import webhook_events_pb2

from billing.domain.address import Network
from billing.domain.errors import Invalid, NotFound
from billing.domain.ids import Prefix, encode
from billing.domain.signature import Secret
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.runtime.vault import Vault
from billing.services import events
from billing.services.actor import Cause
from billing.services.business_time import business_time
from billing.services.tenants import get_tenant
from billing.services.webhook_headers import check_headers
from billing.services.webhook_subjects import check_wanted
from billing.services.webhook_url import check_url

# How many shards the endpoints are spread over; each has one sender at a time. Stored with each endpoint: changing it
# takes a migration that moves them.
SENDER_SHARDS: Final = 16
SECRET_BYTES: Final = 32


class EndpointNotFound(NotFound):
    """There is no such webhook endpoint in this tenant; create it with CreateEndpoint."""

    reason = "ENDPOINT_NOT_FOUND"


class SchemaVersionUnknown(Invalid):
    """No release has had payloads of this version; leave it out for the present one."""

    reason = "SCHEMA_VERSION_UNKNOWN"


class Payload(StrEnum):
    """How much of an event a request carries."""

    FAT = "fat"
    THIN = "thin"


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """An endpoint to make. No subjects means all, rate 0 no limit, version 0 the present one.

    `allowed` are the networks that the operator allows beside the public internet.
    """

    url: str
    subjects: Sequence[str]
    description: str
    headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    payload: Payload = Payload.FAT
    rate_per_second: int = 0
    schema_version: int = 0
    allowed: Sequence[Network] = ()


def sender_shard(webhook_id: UUID) -> int:
    """The shard of an endpoint: the same for ever, in every process."""
    return zlib.crc32(webhook_id.bytes) % SENDER_SHARDS


def pinned_version(given: int) -> int:
    """The version of the payloads that an endpoint gets; 0 pins the present one. Raises SchemaVersionUnknown."""
    if given > events.SCHEMA_VERSION:
        newest = str(events.SCHEMA_VERSION)
        raise SchemaVersionUnknown(metadata={"schema_version": str(given), "newest": newest})
    return given or events.SCHEMA_VERSION


async def create_endpoint(
    tx: Connection,
    tenant_id: UUID,
    draft: NewEndpoint,
    cause: Cause,
    vault: Vault,
    *,
    now: datetime,
) -> tuple[Webhook, Secret]:
    """A new endpoint and its signing secret; emits webhook.endpoint.created.

    Raises UrlNotAllowed, SubjectInvalid, HeaderNotAllowed or SchemaVersionUnknown.
    """
    tenant = await get_tenant(tx, tenant_id)
    check_url(draft.url, test_mode=tenant.mode == "test", allowed=draft.allowed)
    webhook_id, secret = new_id(now), Secret(secrets.token_bytes(SECRET_BYTES))
    webhook = await queries.webhooks.insert_webhook(
        tx,
        tenant_id=tenant_id,
        id=webhook_id,
        url=draft.url,
        subjects=check_wanted(draft.subjects),
        description=draft.description,
        headers=json.dumps(check_headers(draft.headers)),
        metadata=json.dumps(dict(draft.metadata)),
        payload=draft.payload,
        rate_per_second=draft.rate_per_second,
        schema_version=pinned_version(draft.schema_version),
        shard=sender_shard(webhook_id),
        now=now,
    )
    assert webhook is not None, "an INSERT without a conflict clause returns its row"
    await queries.webhooks.insert_webhook_secret(
        tx,
        tenant_id=tenant_id,
        webhook_id=webhook_id,
        id=new_id(now),
        ciphertext=vault.encrypt(secret.key),
        now=now,
    )
    resource = encode(Prefix.WEBHOOK_ENDPOINT, webhook_id)
    payload = webhook_events_pb2.WebhookEndpointCreated(
        endpoint_id=resource, url=webhook.url, subjects=webhook.subjects
    )
    at = await business_time(tx, tenant_id, now)
    created = events.NewEvent(tenant_id, resource, webhook.version, payload, at, cause)
    await events.emit(tx, [created], now=now)
    return webhook, secret


async def get_endpoint(
    tx: Connection, tenant_id: UUID, webhook_id: UUID
) -> tuple[Webhook, CountDeliveriesOfRow]:
    """The endpoint and how its deliveries stand. Raises EndpointNotFound."""
    webhook = await queries.webhooks.get_webhook(tx, tenant_id=tenant_id, id=webhook_id)
    if webhook is None:
        raise EndpointNotFound(metadata={"endpoint": encode(Prefix.WEBHOOK_ENDPOINT, webhook_id)})
    counts = await queries.webhooks.count_deliveries_of(
        tx, tenant_id=tenant_id, webhook_id=webhook_id
    )
    assert counts is not None, "an aggregate without groups returns one row"
    return webhook, counts
