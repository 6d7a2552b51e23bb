"""Publish path, steps 2 to 4: what is committed is published, at least once and in order per resource."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from tollway.event.v1 import event_pb2
from tollway.tenant.v1 import tenant_events_pb2

from billing.domain.backoff import ExponentialBackoff
from billing.domain.ids import Prefix, encode
from billing.runtime.bus.base import Received
from billing.runtime.bus.connect import connect_bus
from billing.runtime.ids import new_id
from tests.backbone import BUS, SHARDS, Backbone, wipe_streams
from tests.runtime.bus.brokers import NatsServer, open_bus, running, until
from workers.dispatcher.settings import DispatcherSettings

SMALL = DispatcherSettings(shared_rows_max=5, batch_rows_max=40)
AT_ONCE = ExponentialBackoff(base_ms=1, cap_ms=1)


def ids_of(messages: Iterable[Received]) -> list[str]:
    return [message.headers["id"] for message in messages]


def named(ids: Iterable[UUID]) -> list[str]:
    return [encode(Prefix.EVENT, event) for event in ids]


def by_resource(messages: Iterable[Received]) -> dict[str, list[int]]:
    versions: dict[str, list[int]] = defaultdict(list)
    for message in messages:
        event = event_pb2.Event.FromString(message.body)
        versions[event.resource_id].append(event.resource_version)
    return versions


async def test_what_is_committed_is_published_as_it_was_committed(backbone: Backbone) -> None:
    resource = backbone.resource()
    [event_id] = await backbone.emit([resource])
    dispatcher, metrics, _ = await backbone.dispatcher()

    assert await dispatcher.step() == 1

    [message] = [m for held in await backbone.on_bus() for m in held]
    logged = (await backbone.fetch("SELECT envelope, occurred_at FROM billing_events"))[0]
    assert message.body == logged["envelope"]
    event = encode(Prefix.EVENT, event_id)
    tenant = encode(Prefix.TENANT, backbone.tenant)
    assert message.bus_id == event
    assert (message.tenant, message.subject) == (tenant, "tenant.created")
    assert dict(message.headers) == {
        "specversion": "1.0",
        "id": event,
        "type": "tenant.created",
        "source": f"/tenants/{tenant}",
        "subject": resource,
        "time": logged["occurred_at"].isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/protobuf",
    }
    assert await backbone.count("outbox") == 0
    assert metrics.published._value.get() == 1


@pytest.mark.parametrize("settings", [DispatcherSettings(), SMALL])
async def test_a_backlog_is_published_in_order_per_resource(
    backbone: Backbone, settings: DispatcherSettings
) -> None:
    resources = [backbone.resource() for _ in range(7)]
    for start in range(0, 300, 30):
        await backbone.emit([resources[(start + n * n) % 7] for n in range(30)])
    dispatcher, _, _ = await backbone.dispatcher(settings)

    while await dispatcher.step():
        pass

    held = await backbone.on_bus()
    assert sum(map(len, held)) == 300
    for messages in held:
        for versions in by_resource(messages).values():
            assert versions == sorted(versions)
    assert await backbone.count("outbox") == 0


async def test_a_transaction_that_commits_late_is_not_passed_over(backbone: Backbone) -> None:
    dispatcher, _, _ = await backbone.dispatcher(SMALL)
    connection = await backbone.databases.worker.pool.acquire()
    early = connection.transaction()
    await early.start()
    drawn = await connection.fetchval("SELECT nextval('outbox_position')")
    await backbone.emit([backbone.resource() for _ in range(100)])
    assert await dispatcher.step() > 0
    # The late one is of a transaction that drew its position before all of these.
    [late] = await backbone.emit([backbone.resource()])
    await early.rollback()
    await backbone.databases.worker.pool.release(connection)
    await backbone.execute("UPDATE outbox SET position = $1 WHERE event_id = $2", drawn, late)

    while await dispatcher.step():
        pass

    held = [event for messages in await backbone.on_bus() for event in ids_of(messages)]
    assert len(held) == 101
    assert encode(Prefix.EVENT, late) in held


async def test_large_envelopes_are_read_within_the_limit_of_bytes(backbone: Backbone) -> None:
    resource = backbone.resource()
    large = tenant_events_pb2.TenantCreated(tenant_id="x" * 200_000)
    ids = await backbone.emit([resource] * 12, large)
    settings = DispatcherSettings(batch_bytes_max=500_000)
    dispatcher, _, _ = await backbone.dispatcher(settings)

    published = [await dispatcher.step() for _ in range(12)]

    assert sum(published) == 12
    assert max(published) <= 2 * settings.batches_per_turn
    assert [e for held in await backbone.on_bus() for e in ids_of(held)] == named(ids)


async def test_only_the_event_at_fault_counts_attempts_and_holds_its_resource_back(
    backbone: Backbone,
) -> None:
    poisoned, healthy = backbone.resource(), backbone.resource()
    huge = tenant_events_pb2.TenantCreated(tenant_id="x" * 50_000)
    [before] = await backbone.emit([poisoned])
    [poison] = await backbone.emit([poisoned], huge)
    await backbone.emit([poisoned])
    others = await backbone.emit([healthy] * 20)
    bus = await connect_bus(
        backbone.nats_url, replace(BUS, message_max_bytes=20_000, stream_max_bytes=2**25)
    )
    settings = DispatcherSettings(attempts_max=3, refused_backoff=AT_ONCE)
    dispatcher, metrics, _ = await backbone.dispatcher(settings, bus)

    first = await dispatcher.step()
    [row] = await backbone.fetch("SELECT * FROM outbox WHERE event_id = $1", poison)
    assert first == 21
    assert (row["attempts"], row["last_error"].split(":")[0]) == (1, "TOO_LARGE")
    while not await backbone.count("outbox_dead_letters"):
        await dispatcher.step()
    assert await dispatcher.step() == 0
    await bus.close()

    [dead] = await backbone.fetch("SELECT * FROM outbox_dead_letters")
    [status] = await backbone.fetch(
        "SELECT dispatch_status FROM event_dispatch_status WHERE event_id = $1", poison
    )
    assert (dead["event_id"], dead["attempts"]) == (poison, 3)
    assert status["dispatch_status"] == "dead_letter"
    # The follower waits behind the dead one; everything else is on the bus.
    assert await backbone.count("outbox") == 1
    held = {event for messages in await backbone.on_bus() for event in ids_of(messages)}
    assert held == set(named([before, *others]))
    assert metrics.refused._value.get() == 3
    assert metrics.dead_letters._value.get() == 1


async def test_a_bus_that_is_away_is_nobodys_fault(backbone: Backbone) -> None:
    ids = await backbone.emit([backbone.resource() for _ in range(6)])
    settings = DispatcherSettings(outage_backoff=AT_ONCE)
    dispatcher, metrics, _ = await backbone.dispatcher(settings)
    await wipe_streams(backbone.nats_url)

    assert await dispatcher.step() == 0
    assert metrics.shards_in_outage._value.get() > 0
    rows = await backbone.fetch("SELECT attempts, last_error FROM outbox")
    assert {(row["attempts"], row["last_error"]) for row in rows} == {(0, None)}
    assert len(rows) == 6

    await backbone.bus.ensure_streams(SHARDS)
    while await backbone.count("outbox"):
        await dispatcher.step()
    held = [event for messages in await backbone.on_bus() for event in ids_of(messages)]
    assert sorted(held) == sorted(named(ids))
    assert metrics.shards_in_outage._value.get() == 0


async def test_what_waits_is_published_at_once_when_the_bus_is_back(
    backbone: Backbone, tmp_path: Path
) -> None:
    never = ExponentialBackoff(base_ms=3_600_000, cap_ms=3_600_000)
    settings = DispatcherSettings(outage_backoff=never)
    async with running(NatsServer(tmp_path)) as server:
        bus = await open_bus(server)
        await bus.ensure_streams(SHARDS)
        dispatcher, metrics, _ = await backbone.dispatcher(settings, bus)
        await backbone.emit([backbone.resource() for _ in range(40)])
        server.kill()
        while not metrics.shards_in_outage._value.get():
            await dispatcher.step()
        await until(lambda: not bus.connected)
        assert await dispatcher.step() == 0
        assert metrics.shards_in_outage._value.get() == SHARDS

        await server.start()
        await until(lambda: bus.connected)
        while await backbone.count("outbox"):
            await dispatcher.step()
        await dispatcher.step()
        assert metrics.shards_in_outage._value.get() == 0
        states = [await bus.stream_state(partition) for partition in range(SHARDS)]
        assert sum(state.last_seq for state in states) == 40
        await bus.close()


async def test_a_replay_goes_after_live_events_under_a_bus_id_of_its_own(
    backbone: Backbone,
) -> None:
    resource = backbone.resource()
    [old] = await backbone.emit([resource])
    dispatcher, _, _ = await backbone.dispatcher()
    await dispatcher.step()
    replay = new_id(backbone.now)
    await backbone.execute(
        "INSERT INTO outbox (event_id, purpose, tenant_id, shard, priority, position, subject,"
        " resource, replay_id) SELECT id, 'replay_' || $1::uuid, tenant_id, 0, 1,"
        " nextval('outbox_position'), subject, resource, $1 FROM billing_events",
        replay,
    )
    await backbone.execute("UPDATE outbox SET shard = 0")
    others = await backbone.emit([backbone.resource() for _ in range(8)])

    while await dispatcher.step():
        pass

    held = await backbone.on_bus()
    last = held[0][-1]
    text = encode(Prefix.REPLAY, replay)
    assert last.bus_id == f"{encode(Prefix.EVENT, old)}:{text}"
    assert last.headers["replayid"] == text
    assert sum(map(len, held)) == 2 + len(others)


async def test_an_event_that_the_log_lacks_becomes_a_dead_letter(backbone: Backbone) -> None:
    lost, kept = backbone.resource(), backbone.resource()
    [gone, _] = await backbone.emit([lost, lost])
    await backbone.emit([kept])
    await backbone.execute("DELETE FROM billing_events WHERE id = $1", gone)
    settings = DispatcherSettings(attempts_max=2, refused_backoff=AT_ONCE)
    dispatcher, _, _ = await backbone.dispatcher(settings)

    while not await backbone.count("outbox_dead_letters"):
        await dispatcher.step()

    [dead] = await backbone.fetch("SELECT event_id, last_error FROM outbox_dead_letters")
    assert tuple(dead) == (gone, "the event is not in the log")
    assert await backbone.count("outbox") == 1


async def test_an_envelope_travels_as_bytes_that_nobody_parsed(backbone: Backbone) -> None:
    # A field that this release does not know would be at risk if anything on the path took the envelope apart.
    newer_field = b"\xfa\x7f\x03abc"
    await backbone.emit([backbone.resource()])
    await backbone.execute("UPDATE billing_events SET envelope = envelope || $1", newer_field)

    await backbone.dispatch()

    [message] = [m for held in await backbone.on_bus() for m in held]
    assert message.body.endswith(newer_field)


async def test_what_was_read_ahead_of_a_refusal_waits_behind_it_too(backbone: Backbone) -> None:
    poisoned = backbone.resource()
    await backbone.emit([poisoned])
    huge = tenant_events_pb2.TenantCreated(tenant_id="x" * 50_000)
    [poison] = await backbone.emit([poisoned], huge)
    await backbone.emit([poisoned] * 12)
    bus = await connect_bus(backbone.nats_url, replace(BUS, message_max_bytes=20_000))
    # Batches of three: the second is read while the first, with the poison, is being published.
    settings = DispatcherSettings(shared_rows_max=1, batch_rows_max=3)
    dispatcher, _, _ = await backbone.dispatcher(settings, bus)

    for _ in range(4):
        await dispatcher.step()
    await bus.close()

    held = [message for messages in await backbone.on_bus() for message in messages]
    assert by_resource(held) == {poisoned: [1]}
    rows = await backbone.fetch("SELECT event_id, attempts FROM outbox ORDER BY position")
    assert len(rows) == 13
    assert tuple(rows[0]) == (poison, 1)
