"""The rim, step 2: whose key it is, and whether it may call this method.

Invariant: permission is checked before anything is looked up for the caller, and a revoked key works at most
`cache_ttl_s` longer. Keys are remembered by their hash only, never in clear, and are never logged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from billing.domain.errors import Invalid
from billing.domain.ids import Prefix, decode
from billing.runtime.db import Database
from billing.services import keys, tenants
from billing.services.keys import KeyInvalid, KeyMissing, OperatorRequired, Principal, Scope
from server.permissions import PERMISSIONS, Permission

AUTHORIZATION_METADATA: Final = "authorization"
TENANT_METADATA: Final = "tollway-tenant"
CACHED_KEYS_MAX: Final = 10_000
KNOWN_TENANTS_MAX: Final = 10_000
USES_STORED_EVERY: Final = timedelta(minutes=1)


@dataclass(slots=True)
class _Known:
    """A key that was looked up: whom it stands for, how long that is believed, and what it was found to allow."""

    principal: Principal
    until: datetime
    allowed: set[str] = field(default_factory=set)


class Authenticator:
    """Knows callers by their keys. Looks keys up as the worker role: before that there is no tenant to bind to."""

    def __init__(self, worker: Database, *, cache_ttl_s: float = 2.0) -> None:
        self._worker = worker
        self._cache_ttl = timedelta(seconds=cache_ttl_s)
        self._tenants: set[UUID] = set()
        self._cache: OrderedDict[bytes, _Known] = OrderedDict()
        # When keys were last used, of those since the last store.
        self._used: dict[UUID, datetime] = {}
        self._stored_at: datetime | None = None

    async def principal(self, method: str, metadata: Mapping[str, str], now: datetime) -> Principal:
        """Who calls. Raises KeyMissing, KeyInvalid, ScopeMissing or OperatorRequired.

        An operator's key acts for the tenant that the metadata names. Raises TenantNotFound for a tenant that is not
        there, and Invalid for none where the method needs one.
        """
        secret = _secret_in(metadata.get(AUTHORIZATION_METADATA, ""))
        hashed = keys.hash_secret(secret)
        known = self._cache.get(hashed)
        if known is None or now >= known.until:
            known = await self._look_up(secret, hashed, now)
        self._used[known.principal.key_id] = now
        if method not in known.allowed:
            _authorize(known.principal, PERMISSIONS[method])
            known.allowed.add(method)
        if known.principal.tenant_id is None:
            return await self._operator(method, known.principal, metadata)
        return known.principal

    async def store_uses(self, now: datetime, *, at_once: bool = False) -> None:
        """Stores when keys were last used: all at once, and at most once a minute, so that no call writes."""
        if self._stored_at is None:
            self._stored_at = now
        if not self._used or not (at_once or now - self._stored_at >= USES_STORED_EVERY):
            return
        used, self._used = self._used, {}
        try:
            async with self._worker.transaction() as tx:
                await keys.note_used(tx, used)
        except BaseException:
            self._used = used | self._used
            raise
        self._stored_at = now

    async def _operator(
        self, method: str, principal: Principal, metadata: Mapping[str, str]
    ) -> Principal:
        named = metadata.get(TENANT_METADATA)
        if named:
            tenant_id = decode(Prefix.TENANT, named, path=TENANT_METADATA)
            await self._ensure_tenant(tenant_id)
            return replace(principal, tenant_id=tenant_id)
        if not PERMISSIONS[method].without_tenant:
            raise Invalid.field(
                TENANT_METADATA,
                "an operator's key belongs to no tenant; send the tenant's id in this metadata",
            )
        return principal

    async def _look_up(self, secret: str, hashed: bytes, now: datetime) -> _Known:
        async with self._worker.connection() as connection:
            principal = await keys.authenticate(connection, secret, now=now)
        until = now + self._cache_ttl
        if principal.expires_at is not None:
            until = min(until, principal.expires_at)
        known = self._cache[hashed] = _Known(principal, until)
        self._cache.move_to_end(hashed)
        if len(self._cache) > CACHED_KEYS_MAX:
            self._cache.popitem(last=False)
        return known

    async def _ensure_tenant(self, tenant_id: UUID) -> None:
        """Only what was found is remembered: tenants come, and never go."""
        if tenant_id in self._tenants:
            return
        async with self._worker.connection() as connection:
            await tenants.get_tenant(connection, tenant_id)
        if len(self._tenants) >= KNOWN_TENANTS_MAX:
            self._tenants.clear()
        self._tenants.add(tenant_id)


def tenant_named(principal: Principal, tenant_text: str) -> UUID:
    """The tenant a request names, or else the caller's own; a tenant's key may name its own only.

    Raises OperatorRequired for another tenant, so that a tenant's key learns nothing about which tenants there are.
    """
    if not tenant_text:
        if principal.tenant_id is None:
            raise Invalid.field("tenant_id", "an operator's key belongs to no tenant; name one")
        return principal.tenant_id
    tenant_id = decode(Prefix.TENANT, tenant_text, path="tenant_id")
    if not principal.is_operator and tenant_id != principal.tenant_id:
        raise OperatorRequired("Only an operator's key may name another tenant.")
    return tenant_id


def _secret_in(authorization: str) -> str:
    """What stands behind `Bearer`. What cannot be a key of ours is refused here, without asking the database."""
    if not authorization:
        raise KeyMissing()
    kind, _, secret = authorization.partition(" ")
    secret = secret.strip()
    if kind.lower() != "bearer" or not secret:
        raise KeyInvalid("The authorization metadata must be `Bearer <key>`.")
    if not secret.startswith(keys.SECRET_PREFIX) or len(secret) != keys.SECRET_LENGTH:
        raise KeyInvalid()
    return secret


def _authorize(principal: Principal, permission: Permission) -> None:
    if permission.scope is None:
        if not principal.is_operator:
            raise OperatorRequired()
    else:
        principal.require(permission.scope)


assert Scope.OPERATOR not in {permission.scope for permission in PERMISSIONS.values()}, (
    "methods for operators only have no scope"
)
