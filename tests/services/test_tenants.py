"""Tenants: made with all that finalizing will need, and told of."""

from __future__ import annotations

import pytest
from tollway.event.v1 import event_pb2
from tollway.tenant.v1 import tenant_events_pb2, tenant_service_pb2

from billing.domain.errors import InvalidTimeZone
from billing.domain.ids import Prefix, encode
from billing.runtime.ids import new_id
from billing.services.actor import Cause
from billing.services.tenants import NewTenant, TenantNotFound, create_tenant, get_tenant
from tests.conftest import Databases


async def test_a_tenant_is_made_with_its_sequences_and_its_event(databases: Databases) -> None:
    now = databases.clock.now()
    cause = Cause("opr_test", new_id(now))
    async with databases.worker.transaction() as tx:
        made = await create_tenant(tx, NewTenant("Acme", "live", "Europe/Vienna"), cause, now=now)
    async with databases.api.transaction(made.id) as tx:
        assert await get_tenant(tx, made.id) == made
        kinds = await tx.fetch("SELECT kind FROM invoice_sequences ORDER BY kind")
        envelope = await tx.fetchval("SELECT envelope FROM billing_events")
    assert [row["kind"] for row in kinds] == ["credit_note", "invoice"]
    event, payload = event_pb2.Event.FromString(envelope), tenant_events_pb2.TenantCreated()
    assert event.data.Unpack(payload)
    assert payload.tenant_id == event.resource_id == encode(Prefix.TENANT, made.id)
    assert payload.mode == tenant_service_pb2.TENANT_MODE_LIVE


async def test_a_time_zone_that_nobody_knows_makes_no_tenant(databases: Databases) -> None:
    now = databases.clock.now()
    for zone in ("Mars/Olympus", "", "../etc/passwd", "UTC+1"):
        with pytest.raises(InvalidTimeZone):
            async with databases.worker.transaction() as tx:
                cause = Cause("opr_test", new_id(now))
                await create_tenant(tx, NewTenant("Acme", "live", zone), cause, now=now)
    async with databases.worker.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM tenants") == 0


async def test_a_tenant_that_is_not_there_is_not_found(databases: Databases) -> None:
    with pytest.raises(TenantNotFound):
        async with databases.worker.transaction() as tx:
            await get_tenant(tx, new_id(databases.clock.now()))
