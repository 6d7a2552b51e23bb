"""Webhook path, beside step 2: rotation of an endpoint's signing secrets.

Invariant: for 24 hours after a rotation every request is signed with the new secret and the earlier ones; a secret that
has ended signs nothing, whether or not its row is still there.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import queries.webhooks
from queries.webhooks import ListWebhookSecretsRow
from tollway.webhook.v1 import webhook_events_pb2

from billing.domain.errors import Exhausted
from billing.domain.ids import Prefix, encode
from billing.domain.signature import Secret
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.runtime.vault import Vault
from billing.services.actor import Cause
from billing.services.webhook_endpoints import lock_endpoint, touch_endpoint
from billing.services.webhooks import SECRET_BYTES, get_endpoint

OVERLAP: Final = timedelta(hours=24)
# Each adds a signature to every request.
SECRETS_MAX: Final = 5


class TooManySecrets(Exhausted):
    """The endpoint has 5 valid secrets; wait until one of them ends."""

    reason = "TOO_MANY_SECRETS"


async def rotate_secret(
    tx: Connection,
    tenant_id: UUID,
    webhook_id: UUID,
    cause: Cause,
    vault: Vault,
    *,
    now: datetime,
) -> tuple[Secret, datetime]:
    """The new secret, and when the earlier ones end; emits webhook.secret.rotated.

    Raises EndpointNotFound or TooManySecrets.
    """
    webhook = await lock_endpoint(tx, tenant_id, webhook_id)
    valid = await queries.webhooks.list_webhook_secrets(
        tx, tenant_id=tenant_id, webhook_id=webhook_id, now=now
    )
    resource = encode(Prefix.WEBHOOK_ENDPOINT, webhook_id)
    if len(valid) >= SECRETS_MAX:
        raise TooManySecrets(metadata={"endpoint": resource})
    await queries.webhooks.drop_webhook_secrets(
        tx, tenant_id=tenant_id, webhook_id=webhook_id, now=now
    )
    await queries.webhooks.expire_webhook_secrets(
        tx, tenant_id=tenant_id, webhook_id=webhook_id, expires_at=now + OVERLAP
    )
    secret = Secret(secrets.token_bytes(SECRET_BYTES))
    await queries.webhooks.insert_webhook_secret(
        tx,
        tenant_id=tenant_id,
        webhook_id=webhook_id,
        id=new_id(now),
        ciphertext=vault.encrypt(secret.key),
        now=now,
    )
    payload = webhook_events_pb2.WebhookSecretRotated(endpoint_id=resource)
    await touch_endpoint(tx, webhook, payload, cause, now)
    return secret, now + OVERLAP


async def list_secrets(
    tx: Connection, tenant_id: UUID, webhook_id: UUID, *, now: datetime
) -> list[ListWebhookSecretsRow]:
    """The valid secrets' times, newest first. Raises EndpointNotFound."""
    await get_endpoint(tx, tenant_id, webhook_id)
    return await queries.webhooks.list_webhook_secrets(
        tx, tenant_id=tenant_id, webhook_id=webhook_id, now=now
    )
