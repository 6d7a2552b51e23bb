"""The rim's door: API keys and who they stand for.

Invariant: a secret leaves the house once, in the answer that makes it; what is stored is its SHA-256, and 256 random
bits need no slower hash. A key is looked up by that hash in an index, so the timing tells nothing about the secret.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, TypeAlias
from uuid import UUID

import queries.api_keys
from queries.models import ApiKey
from tollway.tenant.v1 import tenant_events_pb2, tenant_service_pb2

from billing.domain.errors import (
    Invalid,
    NotFound,
    PermissionDenied,
    Precondition,
    Unauthenticated,
)
from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.tenant_limits import CHANGEABLE, Overrides

SECRET_PREFIX: Final = "twk_"  # noqa: S105 - so that a leaked key can be recognized by scanners
SECRET_BYTES: Final = 32
OVERLAP_DEFAULT: Final = timedelta(hours=24)
SECRET_LENGTH: Final = len(SECRET_PREFIX) + 43  # base64 of 32 bytes, without its padding


class Scope(StrEnum):
    """What a key may do; each includes those before it, and operator stands apart."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    OPERATOR = "operator"


Payload: TypeAlias = (
    tenant_events_pb2.ApiKeyCreated
    | tenant_events_pb2.ApiKeyRotated
    | tenant_events_pb2.ApiKeyRevoked
)
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


class KeyNotActive(Precondition):
    """The API key is revoked or has expired, so it cannot be replaced; create another."""

    reason = "KEY_NOT_ACTIVE"


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


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to make."""

    display_name: str
    scopes: Collection[Scope]
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rotation:
    """How long the old key works on, and when the new one ends; None takes a life as long as the old one's was."""

    overlap: timedelta = OVERLAP_DEFAULT
    expires_at: datetime | None = None


async def create_key(
    tx: Connection, tenant_id: UUID | None, draft: NewKey, cause: Cause, *, now: datetime
) -> tuple[ApiKey, str]:
    """A new key of a tenant, or without one of an operator, and its secret; a tenant's emits api_key.created.

    Raises Invalid when it would be expired already.
    """
    if draft.expires_at is not None and draft.expires_at <= now:
        raise Invalid.field("expire_time", "must be in the future; leave it out for never")
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
    payload = tenant_events_pb2.ApiKeyCreated(
        api_key_id=key_name(key),
        scopes=[tenant_service_pb2.Scope.Value(f"SCOPE_{scope.upper()}") for scope in key.scopes],
    )
    await _emit(tx, key, payload, cause, now)
    return key, secret


async def create_operator_key(
    tx: Connection, display_name: str, *, now: datetime
) -> tuple[ApiKey, str]:
    """The house's own first key: an operator's, that nobody asked for by a call."""
    draft = NewKey(display_name, (Scope.OPERATOR,))
    return await create_key(tx, None, draft, Cause("worker:up", new_id(now)), now=now)


async def rotate_key(
    tx: Connection,
    tenant_id: UUID | None,
    key_id: UUID,
    order: Rotation,
    cause: Cause,
    *,
    now: datetime,
) -> tuple[ApiKey, str, ApiKey]:
    """A new key like another one, its secret, and the other, which ends after the overlap; emits api_key.rotated.

    Raises KeyNotFound, KeyNotActive or Invalid.
    """
    old = await get_key(tx, tenant_id, key_id)
    ended = await queries.api_keys.end_api_key(
        tx, tenant_id=tenant_id, id=key_id, end_at=now + order.overlap, now=now
    )
    if ended is None:
        raise KeyNotActive(metadata={"key": key_name(old)})
    expires_at = order.expires_at
    if expires_at is None and old.expires_at is not None:
        expires_at = now + (old.expires_at - old.created_at)
    draft = NewKey(old.display_name, list(map(Scope, old.scopes)), expires_at)
    key, secret = await create_key(tx, tenant_id, draft, cause, now=now)
    payload = tenant_events_pb2.ApiKeyRotated(
        api_key_id=key_name(ended), replacement_id=key_name(key)
    )
    assert ended.expires_at is not None, "it has just been given its end"
    payload.end_time.FromDatetime(ended.expires_at)
    await _emit(tx, ended, payload, cause, now)
    return key, secret, ended


async def revoke_key(
    tx: Connection, tenant_id: UUID | None, key_id: UUID, cause: Cause, *, now: datetime
) -> ApiKey:
    """Revokes a key; a second time changes nothing. Emits api_key.revoked. Raises KeyNotFound."""
    revoked = await queries.api_keys.revoke_api_key(tx, tenant_id=tenant_id, id=key_id, now=now)
    if revoked is None:
        return await get_key(tx, tenant_id, key_id)
    payload = tenant_events_pb2.ApiKeyRevoked(api_key_id=key_name(revoked))
    await _emit(tx, revoked, payload, cause, now)
    return revoked


async def get_key(tx: Connection, tenant_id: UUID | None, key_id: UUID) -> ApiKey:
    """A tenant's key, or without one an operator's. Raises KeyNotFound."""
    key = await queries.api_keys.get_api_key(tx, tenant_id=tenant_id, id=key_id)
    if key is None:
        prefix = Prefix.API_KEY if tenant_id else Prefix.OPERATOR_KEY
        raise KeyNotFound(metadata={"key": encode(prefix, key_id)})
    return key


async def list_keys(
    tx: Connection, tenant_id: UUID | None, *, before: UUID | None, limit: int
) -> list[ApiKey]:
    """A tenant's keys, or without one operators', newest first, those made before the key `before`."""
    return await queries.api_keys.list_api_keys(tx, tenant_id=tenant_id, before=before, limit=limit)


async def note_used(tx: Connection, used: Mapping[UUID, datetime]) -> None:
    """Stores when keys were last used."""
    await queries.api_keys.note_keys_used(tx, ids=list(used), times=list(used.values()))


def key_name(key: ApiKey) -> str:
    """A key's id as people see it."""
    return encode(Prefix.API_KEY if key.tenant_id else Prefix.OPERATOR_KEY, key.id)


async def _emit(tx: Connection, key: ApiKey, payload: Payload, cause: Cause, now: datetime) -> None:
    """Tells the tenant. An operator's key belongs to none, so only the audit has it."""
    if key.tenant_id is not None:
        event = events.NewEvent(key.tenant_id, key_name(key), key.version, payload, now, cause)
        await events.emit(tx, [event], now=now)
