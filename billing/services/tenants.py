"""Every path's ground: tenants. Invariant: a tenant is made with its number sequences, and tells of it first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import queries.tenants
from queries.models import Tenant
from tollway.tenant.v1 import tenant_events_pb2, tenant_service_pb2

from billing.domain import period
from billing.domain.errors import NotFound
from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause


class TenantNotFound(NotFound):
    """There is no such tenant."""

    reason = "TENANT_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class NewTenant:
    """A tenant to make. `mode` is live or test; `time_zone` is an IANA name."""

    display_name: str
    mode: str
    time_zone: str


async def create_tenant(tx: Connection, draft: NewTenant, cause: Cause, *, now: datetime) -> Tenant:
    """A new tenant; emits tenant.created. Raises InvalidTimeZone. Needs the worker role."""
    period.time_zone(draft.time_zone)
    tenant = await queries.tenants.insert_tenant(
        tx,
        id=new_id(now),
        display_name=draft.display_name,
        mode=draft.mode,
        time_zone=draft.time_zone,
        now=now,
    )
    assert tenant is not None, "an INSERT without a conflict clause returns its row"
    await queries.tenants.insert_sequences(tx, tenant_id=tenant.id)
    resource = encode(Prefix.TENANT, tenant.id)
    mode = tenant_service_pb2.TenantMode.Value(f"TENANT_MODE_{tenant.mode.upper()}")
    payload = tenant_events_pb2.TenantCreated(tenant_id=resource, mode=mode)
    await events.emit(
        tx, [events.NewEvent(tenant.id, resource, tenant.version, payload, now, cause)], now=now
    )
    return tenant


async def get_tenant(tx: Connection, tenant_id: UUID) -> Tenant:
    """The tenant. Raises TenantNotFound."""
    tenant = await queries.tenants.get_tenant(tx, id=tenant_id)
    if tenant is None:
        raise TenantNotFound(metadata={"tenant": encode(Prefix.TENANT, tenant_id)})
    return tenant
