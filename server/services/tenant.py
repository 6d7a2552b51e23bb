"""The rim's TenantService. Invariant: a tenant's key manages the keys of its own tenant only."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from tollway.tenant.v1 import tenant_service_pb2 as pb
from tollway.tenant.v1 import tenant_service_pb2_grpc as rpc

from billing.domain.errors import Invalid
from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import keys, tenant_limits, tenant_profiles, tenants
from billing.services.keys import OperatorRequired
from billing.services.money_rows import TenantProfile
from billing.services.rows import ApiKey, Tenant
from billing.services.tenant_limits import Overrides, Totals
from server.authentication import tenant_named
from server.call import Call, current_call
from server.convert import optional_timestamp, to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token
from server.request_fields import given, masked

TIME_ZONE_DEFAULT = "UTC"


class TenantServicer(rpc.TenantServiceServicer):
    """Tenants and their keys, under the worker role: an operator acts beyond one tenant."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def CreateTenant(
        self, request: pb.CreateTenantRequest, context: Context
    ) -> pb.CreateTenantResponse:
        """See the proto."""
        mode = pb.TenantMode.Name(request.mode).removeprefix("TENANT_MODE_").lower()
        draft = tenants.NewTenant(
            request.display_name, mode, request.time_zone or TIME_ZONE_DEFAULT
        )

        async def work(tx: Connection, call: Call) -> pb.CreateTenantResponse:
            tenant = await tenants.create_tenant(tx, draft, call.cause, now=call.now)
            return pb.CreateTenantResponse(tenant=to_tenant(tenant))

        return await self._house.mutate_as_operator(request, pb.CreateTenantResponse, work)

    async def CreateApiKey(
        self, request: pb.CreateApiKeyRequest, context: Context
    ) -> pb.CreateApiKeyResponse:
        """See the proto."""
        draft = keys.NewKey(
            request.display_name,
            [
                keys.Scope(pb.Scope.Name(scope).removeprefix("SCOPE_").lower())
                for scope in request.scopes
            ],
            optional_timestamp(request, "expire_time"),
        )
        tenant_id = _owner_of(draft, request.tenant_id)

        async def work(tx: Connection, call: Call) -> pb.CreateApiKeyResponse:
            if tenant_id is not None:
                await tenants.get_tenant(tx, tenant_id)
            key, secret = await keys.create_key(tx, tenant_id, draft, call.cause, now=call.now)
            return pb.CreateApiKeyResponse(api_key=to_api_key(key), secret=secret)

        return await self._house.mutate_as_operator(
            request, pb.CreateApiKeyResponse, work, secret=True
        )

    async def GetApiKey(
        self, request: pb.GetApiKeyRequest, context: Context
    ) -> pb.GetApiKeyResponse:
        """See the proto."""
        tenant_id, key_id = _key_named(request)
        async with self._house.worker.connection() as connection:
            key = await keys.get_key(connection, tenant_id, key_id)
        return pb.GetApiKeyResponse(api_key=to_api_key(key))

    async def RotateApiKey(
        self, request: pb.RotateApiKeyRequest, context: Context
    ) -> pb.RotateApiKeyResponse:
        """See the proto."""
        tenant_id, key_id = _key_named(request)
        overlap = keys.OVERLAP_DEFAULT
        if request.HasField("overlap"):
            overlap = request.overlap.ToTimedelta()
        order = keys.Rotation(overlap, optional_timestamp(request, "expire_time"))

        async def work(tx: Connection, call: Call) -> pb.RotateApiKeyResponse:
            key, secret, old = await keys.rotate_key(
                tx, tenant_id, key_id, order, call.cause, now=call.now
            )
            call.resource = request.api_key_id
            return pb.RotateApiKeyResponse(
                api_key=to_api_key(key), secret=secret, replaced_key=to_api_key(old)
            )

        return await self._house.mutate_as_operator(
            request, pb.RotateApiKeyResponse, work, secret=True
        )

    async def ListApiKeys(
        self, request: pb.ListApiKeysRequest, context: Context
    ) -> pb.ListApiKeysResponse:
        """See the proto."""
        principal = current_call().principal
        tenant_id: UUID | None = None
        if request.tenant_id or principal.tenant_id is not None:
            tenant_id = tenant_named(principal, request.tenant_id)
        before, limit = read_token(request), page_size(request.page_size) + 1
        async with self._house.worker.transaction() as tx:
            if tenant_id is not None:
                await tenants.get_tenant(tx, tenant_id)
            rows = await keys.list_keys(tx, tenant_id, before=before, limit=limit)
        page, token = cut_page(request, rows, [row.id for row in rows])
        return pb.ListApiKeysResponse(api_keys=map(to_api_key, page), next_page_token=token)

    async def RevokeApiKey(
        self, request: pb.RevokeApiKeyRequest, context: Context
    ) -> pb.RevokeApiKeyResponse:
        """See the proto."""
        tenant_id, key_id = _key_named(request)

        async def work(tx: Connection, call: Call) -> pb.RevokeApiKeyResponse:
            key = await keys.revoke_key(tx, tenant_id, key_id, call.cause, now=call.now)
            return pb.RevokeApiKeyResponse(api_key=to_api_key(key))

        return await self._house.mutate_as_operator(request, pb.RevokeApiKeyResponse, work)

    async def GetTenantProfile(
        self, request: pb.GetTenantProfileRequest, context: Context
    ) -> pb.GetTenantProfileResponse:
        """See the proto."""

        async def work(tx: Connection, call: Call) -> pb.GetTenantProfileResponse:
            profile = await tenant_profiles.get_profile(tx, call.tenant_id)
            return pb.GetTenantProfileResponse(profile=to_profile(profile))

        return await self._house.read(work)

    async def UpdateTenantProfile(
        self, request: pb.UpdateTenantProfileRequest, context: Context
    ) -> pb.UpdateTenantProfileResponse:
        """See the proto."""
        names = masked(request.update_mask, tenant_profiles.CHANGEABLE)
        values = {name: given(request, name) for name in names}

        async def work(tx: Connection, call: Call) -> pb.UpdateTenantProfileResponse:
            profile = await tenant_profiles.update_profile(
                tx, call.tenant_id, values, call.cause, now=call.now
            )
            return pb.UpdateTenantProfileResponse(profile=to_profile(profile))

        return await self._house.mutate(request, pb.UpdateTenantProfileResponse, work)

    async def GetTenantLimits(
        self, request: pb.GetTenantLimitsRequest, context: Context
    ) -> pb.GetTenantLimitsResponse:
        """See the proto."""
        call = current_call()
        tenant_id = tenant_named(call.principal, request.tenant_id)
        async with self._house.worker.transaction() as tx:
            overrides = await tenant_limits.get_overrides(tx, tenant_id)
            limits = await self._limits(tx, tenant_id, overrides, call)
        return pb.GetTenantLimitsResponse(limits=limits)

    async def UpdateTenantLimits(
        self, request: pb.UpdateTenantLimitsRequest, context: Context
    ) -> pb.UpdateTenantLimitsResponse:
        """See the proto."""
        tenant_id = decode(Prefix.TENANT, request.tenant_id, path="tenant_id")
        names = masked(request.update_mask, tenant_limits.CHANGEABLE)
        values = {name: given(request, name) for name in names}

        async def work(tx: Connection, call: Call) -> pb.UpdateTenantLimitsResponse:
            overrides = await tenant_limits.update_limits(
                tx, tenant_id, values, call.cause, now=call.now
            )
            limits = await self._limits(tx, tenant_id, overrides, call)
            return pb.UpdateTenantLimitsResponse(limits=limits)

        return await self._house.mutate_as_operator(request, pb.UpdateTenantLimitsResponse, work)

    async def _limits(
        self, tx: Connection, tenant_id: UUID, overrides: Overrides, call: Call
    ) -> pb.TenantLimits:
        totals = await tenant_limits.totals_of(tx, [tenant_id], call.now.date())
        limits = self._house.limits.with_overrides(overrides)
        used = totals.get(tenant_id, Totals())
        return pb.TenantLimits(
            **{name: getattr(limits, name) for name in tenant_limits.CHANGEABLE},
            overridden=sorted(name for name, value in overrides.items() if value is not None),
            records_today=used.of_day,
            records_this_month=used.of_month,
        )


class KeyRequest(Protocol):
    """A request that names a key, and the tenant it belongs to."""

    api_key_id: str
    tenant_id: str


def _key_named(request: KeyRequest) -> tuple[UUID | None, UUID]:
    """The tenant and the key that a request names; no tenant for an operator's key, which only operators may name."""
    principal = current_call().principal
    if request.api_key_id.startswith(f"{Prefix.OPERATOR_KEY}_"):
        if not principal.is_operator:
            raise OperatorRequired("Only an operator's key may name an operator's key.")
        return None, decode(Prefix.OPERATOR_KEY, request.api_key_id, path="api_key_id")
    tenant_id = tenant_named(principal, request.tenant_id)
    return tenant_id, decode(Prefix.API_KEY, request.api_key_id, path="api_key_id")


def _owner_of(draft: keys.NewKey, tenant_text: str) -> UUID | None:
    """The tenant that a new key belongs to; none for an operator's, which only operators may make."""
    principal = current_call().principal
    if keys.Scope.OPERATOR not in draft.scopes:
        return tenant_named(principal, tenant_text)
    if not principal.is_operator:
        raise OperatorRequired("Only an operator's key may make an operator's key.")
    if set(draft.scopes) != {keys.Scope.OPERATOR}:
        raise Invalid.field("scopes", "SCOPE_OPERATOR includes the others; name it alone")
    if tenant_text:
        raise Invalid.field("tenant_id", "an operator's key belongs to no tenant; leave it out")
    return None


def to_profile(row: TenantProfile | None) -> pb.TenantProfile:
    """A profile for the wire; an empty one before the first change."""
    if row is None:
        return pb.TenantProfile()
    return pb.TenantProfile(**{name: getattr(row, name) for name in tenant_profiles.CHANGEABLE})


def to_tenant(tenant: Tenant) -> pb.Tenant:
    """A stored tenant for the wire."""
    return pb.Tenant(
        id=encode(Prefix.TENANT, tenant.id),
        display_name=tenant.display_name,
        mode=pb.TenantMode.Value(f"TENANT_MODE_{tenant.mode.upper()}"),
        time_zone=tenant.time_zone,
        create_time=to_timestamp(tenant.created_at),
    )


def to_api_key(key: ApiKey) -> pb.ApiKey:
    """A stored key for the wire, without its hash."""
    return pb.ApiKey(
        id=keys.key_name(key),
        tenant_id=encode(Prefix.TENANT, key.tenant_id) if key.tenant_id else "",
        display_name=key.display_name,
        scopes=[pb.Scope.Value(f"SCOPE_{scope.upper()}") for scope in key.scopes],
        create_time=to_timestamp(key.created_at),
        expire_time=to_timestamp(key.expires_at),
        revoke_time=to_timestamp(key.revoked_at),
        last_used_time=to_timestamp(key.last_used_at),
    )
