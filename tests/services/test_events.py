"""Publish path, step 1: an event is committed with its publication, or neither is."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tollway.event.v1 import event_pb2
from tollway.tenant.v1 import tenant_events_pb2

from billing.domain.ids import Prefix, encode
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause, Link
from billing.services.tenants import NewTenant, create_tenant
from tests.conftest import Databases


class Undone(Exception):
    """Ends a transaction on purpose."""


async def test_an_event_is_logged_and_queued_in_the_transaction_of_its_fact(
    databases: Databases,
) -> None:
    now = databases.clock.now()
    cause = Cause("opr_test", new_id(now))
    async with databases.worker.transaction() as tx:
        tenant = await create_tenant(tx, NewTenant("Acme", "test", "Europe/Vienna"), cause, now=now)

    async with databases.worker.connection() as connection:
        row = await connection.fetchrow("SELECT * FROM billing_events")
        queued = await connection.fetch("SELECT event_id, purpose, shard FROM outbox")
    assert row is not None
    envelope = event_pb2.Event.FromString(row["envelope"])
    payload = tenant_events_pb2.TenantCreated()
    assert envelope.data.Unpack(payload)
    assert payload.tenant_id == envelope.tenant_id == encode(Prefix.TENANT, tenant.id)
    assert (row["subject"], row["resource"]) == ("tenant.created", encode(Prefix.TENANT, tenant.id))
    assert [(q["event_id"], q["purpose"]) for q in queued] == [(row["id"], "first")]
    assert queued[0]["shard"] == events.resource_hash(tenant.id, row["resource"]) % 16


async def test_nothing_is_told_of_a_fact_that_was_rolled_back(databases: Databases) -> None:
    now = databases.clock.now()
    with pytest.raises(Undone):
        async with databases.worker.transaction() as tx:
            await create_tenant(
                tx, NewTenant("Acme", "test", "UTC"), Cause("opr_test", new_id(now)), now=now
            )
            raise Undone
    async with databases.worker.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM billing_events") == 0
        assert await connection.fetchval("SELECT count(*) FROM outbox") == 0


async def test_an_event_with_several_causes_can_be_found_from_each(databases: Databases) -> None:
    now = databases.clock.now()
    links = (Link(new_id(now), new_id(now)), Link(new_id(now), new_id(now)))
    cause = Cause("worker:test", new_id(now), links=links)
    async with databases.worker.transaction() as tx:
        await create_tenant(tx, NewTenant("Acme", "live", "UTC"), cause, now=now)
        rows = await tx.fetch(
            "SELECT linked_event_id, linked_correlation_id, correlation_id FROM event_links"
        )
    assert {(r[0], r[1]) for r in rows} == {(link.event_id, link.correlation_id) for link in links}
    assert {r[2] for r in rows} == {cause.correlation_id}


async def test_ids_of_a_process_whose_clock_is_off_are_refused(databases: Databases) -> None:
    now = databases.clock.now() + timedelta(seconds=61)
    with pytest.raises(events.ClockSkewed):
        async with databases.worker.transaction() as tx:
            await create_tenant(
                tx, NewTenant("Acme", "live", "UTC"), Cause("opr_test", new_id(now)), now=now
            )


async def test_an_event_over_the_limit_is_refused_before_it_exists(databases: Databases) -> None:
    now = databases.clock.now()
    tenant_id = new_id(now)
    payload = tenant_events_pb2.TenantCreated(tenant_id="x" * events.ENVELOPE_BYTES_MAX)
    event = events.NewEvent(tenant_id, "tnt_x", 1, payload, now, Cause("opr_test", new_id(now)))
    async with databases.worker.transaction() as tx:
        with pytest.raises(events.EventTooLarge, match="256 KiB"):
            await events.emit(tx, [event], now=now)
        assert await tx.fetchval("SELECT count(*) FROM billing_events") == 0


async def test_events_are_published_in_the_order_in_which_they_were_emitted(
    databases: Databases,
) -> None:
    now = databases.clock.now()
    tenant_id, cause = new_id(now), Cause("opr_test", new_id(now))
    payload = tenant_events_pb2.TenantCreated()
    batch = [
        events.NewEvent(tenant_id, "tnt_x", version, payload, now, cause)
        for version in range(1, 500)
    ]
    async with databases.worker.transaction() as tx:
        ids = await events.emit(tx, batch, now=now)
        queued = await tx.fetch("SELECT event_id FROM outbox ORDER BY position")
    assert ids == sorted(ids) == [row["event_id"] for row in queued]


async def test_a_consumer_handles_an_event_once(databases: Databases) -> None:
    now = databases.clock.now()
    tenant_id = new_id(now)
    pairs = [(tenant_id, new_id(now)) for _ in range(5)]
    async with databases.worker.transaction() as tx:
        assert await events.consume_once(tx, "usage", pairs[:3]) == {
            event for _, event in pairs[:3]
        }
    async with databases.worker.transaction() as tx:
        assert await events.consume_once(tx, "usage", pairs) == {event for _, event in pairs[3:]}
        assert await events.consume_once(tx, "invoice", pairs[:1]) == {pairs[0][1]}
