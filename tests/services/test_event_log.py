"""The log as it is read: an event with the state of its dispatch, and the tree of a cause."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import pytest
from tollway.event.v1 import event_pb2
from tollway.tenant.v1 import tenant_events_pb2

from billing.domain.ids import Prefix, encode
from billing.runtime.ids import new_id
from billing.services import event_log
from billing.services.actor import Cause, Link
from billing.services.event_log import EventNotFound, Trail
from billing.services.events import NewEvent, emit
from tests.conftest import Databases


@dataclass(frozen=True, slots=True)
class Told:
    """An event that was emitted."""

    event_id: UUID
    correlation_id: UUID

    @property
    def link(self) -> Link:
        return Link(self.event_id, self.correlation_id)


async def tell(
    databases: Databases,
    tenant: UUID,
    *,
    after: Told | None = None,
    links: tuple[Link, ...] = (),
    resource: str = "sub_one",
) -> Told:
    now = databases.clock.now()
    correlation = after.correlation_id if after else new_id(now)
    cause = Cause("worker:test", correlation, after.event_id if after else None, links=links)
    payload = tenant_events_pb2.TenantCreated()
    async with databases.api.transaction(tenant) as tx:
        [event] = await emit(tx, [NewEvent(tenant, resource, 1, payload, now, cause)], now=now)
    return Told(event, correlation)


def shape(trail: Trail) -> list[tuple[str, int, int]]:
    return [
        (event_pb2.Event.FromString(node.envelope).id, node.parent, node.link_distance)
        for node in trail.nodes
    ]


def name(told: Told) -> str:
    return encode(Prefix.EVENT, told.event_id)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("SELECT 1", "pending"),
        ("UPDATE outbox SET attempts = 1, last_error = 'TOO_LARGE'", "failed"),
        ("DELETE FROM outbox", "dispatched"),
        ("UPDATE outbox SET purpose = 'replay_1'", "dispatched"),
    ],
)
async def test_an_event_is_shown_with_the_state_of_its_first_publication(
    databases: Databases, change: str, status: str
) -> None:
    tenant = new_id(databases.clock.now())
    told = await tell(databases, tenant)
    async with databases.worker.transaction() as tx:
        await tx.execute(change)
    async with databases.api.transaction(tenant) as tx:
        logged = await event_log.get_event(tx, tenant, told.event_id)
    assert logged.dispatch_status == status
    assert event_pb2.Event.FromString(logged.envelope).id == name(told)


async def test_a_dead_event_is_shown_as_one(databases: Databases) -> None:
    tenant = new_id(databases.clock.now())
    told = await tell(databases, tenant)
    async with databases.worker.transaction() as tx:
        await tx.execute(
            "INSERT INTO outbox_dead_letters SELECT event_id, purpose, tenant_id, shard, priority,"
            " position, subject, resource, target, replay_id, 8, 'TOO_LARGE', now() FROM outbox"
        )
        await tx.execute("DELETE FROM outbox")
    async with databases.api.transaction(tenant) as tx:
        logged = await event_log.get_event(tx, tenant, told.event_id)
    assert logged.dispatch_status == "dead_letter"


async def test_another_tenants_event_is_not_there(databases: Databases) -> None:
    now = databases.clock.now()
    owner, stranger = new_id(now), new_id(now)
    told = await tell(databases, owner)
    async with databases.api.transaction(stranger) as tx:
        with pytest.raises(EventNotFound):
            await event_log.get_event(tx, stranger, told.event_id)
        # Not even for a caller that names the owner: row-level security is the last word.
        with pytest.raises(EventNotFound):
            await event_log.get_event(tx, owner, told.event_id)
        with pytest.raises(EventNotFound):
            await event_log.get_trail(tx, stranger, {told.correlation_id})
        with pytest.raises(EventNotFound):
            await event_log.correlations_of_resource(tx, stranger, "sub_one")


async def test_a_trail_is_the_tree_of_its_cause(databases: Databases) -> None:
    tenant = new_id(databases.clock.now())
    root = await tell(databases, tenant)
    child = await tell(databases, tenant, after=root)
    await tell(databases, tenant)
    grandchild = await tell(databases, tenant, after=child, resource="inv_one")
    sibling = await tell(databases, tenant, after=root)

    async with databases.api.transaction(tenant) as tx:
        starts = await event_log.correlations_of_resource(tx, tenant, "inv_one")
        trail = await event_log.get_trail(tx, tenant, starts)

    assert starts == {root.correlation_id}
    assert shape(trail) == [
        (name(root), -1, 0),
        (name(child), 0, 0),
        (name(grandchild), 1, 0),
        (name(sibling), 0, 0),
    ]
    assert not trail.truncated


async def test_a_resources_trail_has_the_chain_of_each_of_its_events_in_order(
    databases: Databases,
) -> None:
    tenant = new_id(databases.clock.now())
    cycle = await tell(databases, tenant)
    drafted = await tell(databases, tenant, after=cycle, resource="inv_one")
    await tell(databases, tenant, resource="inv_other")
    paid = await tell(databases, tenant, resource="inv_one")
    told_due = await tell(databases, tenant, after=paid, resource="sub_one")

    async with databases.api.transaction(tenant) as tx:
        starts = await event_log.correlations_of_resource(tx, tenant, "inv_one")
        trail = await event_log.get_trail(tx, tenant, starts)

    assert shape(trail) == [
        (name(cycle), -1, 0),
        (name(drafted), 0, 0),
        (name(paid), -1, 0),
        (name(told_due), 2, 0),
    ]


async def test_links_are_followed_both_ways_as_far_as_asked(databases: Databases) -> None:
    tenant = new_id(databases.clock.now())
    usage = [await tell(databases, tenant) for _ in range(3)]
    rating = await tell(databases, tenant, links=tuple(told.link for told in usage))
    invoice = await tell(databases, tenant, links=(rating.link,))

    async def distances(start: Told, depth: int) -> dict[str, int]:
        async with databases.api.transaction(tenant) as tx:
            trail = await event_log.get_trail(tx, tenant, {start.correlation_id}, link_depth=depth)
        return {event: distance for event, _, distance in shape(trail)}

    assert await distances(usage[0], 0) == {name(usage[0]): 0}
    assert await distances(usage[0], 1) == {name(usage[0]): 0, name(rating): 1}
    # From one cause over what it led to, to the other causes of that.
    assert await distances(usage[0], 4) == {
        name(usage[0]): 0,
        name(rating): 1,
        name(usage[1]): 2,
        name(usage[2]): 2,
        name(invoice): 2,
    }
    assert (await distances(invoice, 2))[name(usage[2])] == 2


async def test_a_long_trail_says_that_it_is_cut(databases: Databases) -> None:
    now = databases.clock.now()
    tenant = new_id(now)
    cause = Cause("worker:test", new_id(now))
    payload = tenant_events_pb2.TenantCreated()
    event = NewEvent(tenant, "sub_one", 1, payload, now, cause)
    async with databases.api.transaction(tenant) as tx:
        await emit(tx, [event] * (event_log.TRAIL_EVENTS_MAX + 1), now=now)
        trail = await event_log.get_trail(tx, tenant, {cause.correlation_id})
    assert len(trail.nodes) == event_log.TRAIL_EVENTS_MAX
    assert trail.truncated
