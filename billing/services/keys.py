"""The rim's door: API keys and who they stand for.

Invariant: a secret leaves the house once, in the answer that makes it; what is stored is its SHA-256, and 256 random
bits need no slower hash. A key is looked up by that hash in an index, so the timing tells nothing about the secret.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import queries.api_keys
from queries.models import ApiKey
from tollway.tenant.v1 import tenant_events_pb2, tenant_service_pb2

from billing.domain.errors import Invalid, NotFound, PermissionDenied, Unauthenticated
from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.tenant_limits import CHANGEABLE, Overrides

SECRET_PREFIX: Final = "twk_"  # noqa: S105 - so that a leaked key can be recognized by scanners
SECRET_BYTES: Final = 32
SECRET_LENGTH: Final = len(SECRET_PREFIX) + 43  # base64 of 32 bytes, without its padding


class Scope(StrEnum):
    """What a key may do; each includes those before it, and operator stands apart."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    OPERATOR = "operator"


_RANK: Final = {Scope.READ: 1, Scope.WRITE: 2, Scope.ADMIN: 3, Scope.OPERATOR: 4}


class KeyMissing(Unauthenticated):
    """Send an API key in the metadata: `authorization: Bearer <key>`."""

    reason = "KEY_MISSING"


class KeyInvalid(Unauthenticated):
    """The API key is unknown, expired or revoked; create another with CreateApiKey or `tollway keys create`."""

    reason = "KEY_INVALID"


class ScopeMissing(PermissionDenied):
    """The API key lacks the scope that this call needs."""

    reason = "SCOPE_MISSING"


class OperatorRequired(PermissionDenied):
    """This call needs an operator key."""

    reason = "OPERATOR_REQUIRED"


class KeyNotFound(NotFound):
    """There is no such API key."""

    reason = "KEY_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a key stands for. `tenant_id` is None for an operator who has named no tenant.

    `overrides` is what an operator has set of the tenant's limits; None when there is nothing.
    """

    key_id: UUID
    tenant_id: UUID | None
    scopes: frozenset[Scope]
    expires_at: datetime | None = None
    overrides: Overrides | None = None

    @property
    def is_operator(self) -> bool:
        """Whether the key is an operator's."""
        return Scope.OPERATOR in self.scopes

    @property
    def actor(self) -> str:
        """The key's id as events and the audit name it."""
        return encode(Prefix.OPERATOR_KEY if self.is_operator else Prefix.API_KEY, self.key_id)

    def require(self, scope: Scope) -> None:
        """Raises ScopeMissing unless one of the key's scopes includes `scope`."""
        if max((_RANK[held] for held in self.scopes), default=0) < _RANK[scope]:
            raise ScopeMissing(
                f"This call needs the scope {scope.value}.", metadata={"scope": scope.value}
            )


def hash_secret(secret: str) -> bytes:
    """What is stored and looked up."""
    return hashlib.sha256(secret.encode()).digest()


def new_secret() -> str:
    """A new secret of 256 random bits."""
    return SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)


async def authenticate(tx: Connection, secret: str, *, now: datetime) -> Principal:
    """Who sends this secret. Raises KeyInvalid."""
    row = await queries.api_keys.find_api_key(tx, secret_hash=hash_secret(secret), now=now)
    if row is None:
        raise KeyInvalid()
    overrides = {name: getattr(row, name) for name in CHANGEABLE}
    return Principal(
        row.id,
        row.tenant_id,
        frozenset(map(Scope, row.scopes)),
        row.expires_at,
        overrides if any(value is not None for value in overrides.values()) else None,
    )


async def create_tenant_key(
    tx: Connection, tenant_id: UUID, draft: NewKey, cause: Cause, *, now: datetime
) -> tuple[ApiKey, str]:
    """A new key of a tenant and its secret; emits api_key.created. Raises Invalid when it would be expired already."""
    if draft.expires_at is not None and draft.expires_at <= now:
        raise Invalid.field("expire_time", "must be in the future; leave it out for never")
    key, secret = await _insert(tx, tenant_id, draft, now=now)
    payload = tenant_events_pb2.ApiKeyCreated(
        api_key_id=encode(Prefix.API_KEY, key.id),
        scopes=[tenant_service_pb2.Scope.Value(f"SCOPE_{scope.upper()}") for scope in key.scopes],
    )
    await _emit(tx, key, payload, cause, now)
    return key, secret


async def create_operator_key(
    tx: Connection, display_name: str, *, now: datetime
) -> tuple[ApiKey, str]:
    """A new operator key and its secret. It belongs to no tenant, so no tenant's log tells of it."""
    return await _insert(tx, None, NewKey(display_name, (Scope.OPERATOR,)), now=now)


async def revoke_key(
    tx: Connection, tenant_id: UUID, key_id: UUID, cause: Cause, *, now: datetime
) -> ApiKey:
    """Revokes a tenant's key; a second time changes nothing. Raises KeyNotFound."""
    revoked = await queries.api_keys.revoke_api_key(tx, tenant_id=tenant_id, id=key_id, now=now)
    if revoked is None:
        earlier = await queries.api_keys.get_api_key(tx, tenant_id=tenant_id, id=key_id)
        if earlier is None:
            raise KeyNotFound(metadata={"key": encode(Prefix.API_KEY, key_id)})
        return earlier
    payload = tenant_events_pb2.ApiKeyRevoked(api_key_id=encode(Prefix.API_KEY, key_id))
    await _emit(tx, revoked, payload, cause, now)
    return revoked


async def list_keys(
    tx: Connection, tenant_id: UUID, *, before: UUID | None, limit: int
) -> list[ApiKey]:
    """A tenant's keys, newest first, those made before the key `before`."""
    return await queries.api_keys.list_api_keys(tx, tenant_id=tenant_id, before=before, limit=limit)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to make."""

    display_name: str
    scopes: Collection[Scope]
    expires_at: datetime | None = None


async def _insert(
    tx: Connection, tenant_id: UUID | None, draft: NewKey, *, now: datetime
) -> tuple[ApiKey, str]:
    secret = new_secret()
    key = await queries.api_keys.insert_api_key(
        tx,
        id=new_id(now),
        tenant_id=tenant_id,
        secret_hash=hash_secret(secret),
        display_name=draft.display_name,
        scopes=sorted(
            {scope.value for scope in draft.scopes}, key=lambda value: _RANK[Scope(value)]
        ),
        now=now,
        expires_at=draft.expires_at,
    )
    assert key is not None, "an INSERT without a conflict clause returns its row"
    return key, secret


async def _emit(
    tx: Connection,
    key: ApiKey,
    payload: tenant_events_pb2.ApiKeyCreated | tenant_events_pb2.ApiKeyRevoked,
    cause: Cause,
    now: datetime,
) -> None:
    assert key.tenant_id is not None, "operator keys have no events"
    resource = encode(Prefix.API_KEY, key.id)
    event = events.NewEvent(key.tenant_id, resource, key.version, payload, now, cause)
    await events.emit(tx, [event], now=now)
