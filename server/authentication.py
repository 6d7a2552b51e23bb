"""The rim, step 2: whose key it is, and whether it may call this method.

Invariant: permission is checked before anything is looked up for the caller, and a revoked key works at most
`cache_ttl_s` longer. Keys are remembered by their hash only, never in clear, and are never logged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
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


class Authenticator:
    """Knows callers by their keys. Looks keys up as the worker role: before that there is no tenant to bind to."""

    def __init__(self, worker: Database, *, cache_ttl_s: float = 2.0) -> None:
        self._worker = worker
        self._cache_ttl = timedelta(seconds=cache_ttl_s)
        self._tenants: set[UUID] = set()
        self._cache: OrderedDict[bytes, tuple[datetime, Principal]] = OrderedDict()

    async def principal(self, method: str, metadata: Mapping[str, str], now: datetime) -> Principal:
        """Who calls. Raises KeyMissing, KeyInvalid, ScopeMissing or OperatorRequired.

        An operator's key acts for the tenant that the metadata names. Raises TenantNotFound for a tenant that is not
        there, and Invalid for none where the method needs one.
        """
        principal = await self._identify(metadata.get(AUTHORIZATION_METADATA, ""), now)
        permission = PERMISSIONS[method]
        _authorize(principal, permission)
        if principal.is_operator and (named := metadata.get(TENANT_METADATA)):
            tenant_id = decode(Prefix.TENANT, named, path=TENANT_METADATA)
            await self._ensure_tenant(tenant_id)
            return Principal(principal.key_id, tenant_id, principal.scopes, principal.expires_at)
        if principal.tenant_id is None and not permission.without_tenant:
            raise Invalid.field(
                TENANT_METADATA,
                "an operator's key belongs to no tenant; send the tenant's id in this metadata",
            )
        return principal

    async def _identify(self, authorization: str, now: datetime) -> Principal:
        if not authorization:
            raise KeyMissing()
        secret = _secret_in(authorization)
        hashed = keys.hash_secret(secret)
        cached = self._cache.get(hashed)
        if cached is not None and cached[0] > now and _still_valid(cached[1], now):
            return cached[1]
        async with self._worker.connection() as connection:
            principal = await keys.authenticate(connection, secret, now=now)
        self._remember(hashed, principal, now + self._cache_ttl)
        return principal

    async def _ensure_tenant(self, tenant_id: UUID) -> None:
        """Only what was found is remembered: tenants come, and never go."""
        if tenant_id in self._tenants:
            return
        async with self._worker.connection() as connection:
            await tenants.get_tenant(connection, tenant_id)
        if len(self._tenants) >= KNOWN_TENANTS_MAX:
            self._tenants.clear()
        self._tenants.add(tenant_id)

    def _remember(self, hashed: bytes, principal: Principal, until: datetime) -> None:
        self._cache[hashed] = (until, principal)
        self._cache.move_to_end(hashed)
        if len(self._cache) > CACHED_KEYS_MAX:
            self._cache.popitem(last=False)


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


def _still_valid(principal: Principal, now: datetime) -> bool:
    return principal.expires_at is None or principal.expires_at > now


assert Scope.OPERATOR not in {permission.scope for permission in PERMISSIONS.values()}, (
    "methods for operators only have no scope"
)
