"""Healing: what the bus loses reaches every consumer after all, once; and what is not lost is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from prometheus_client import CollectorRegistry

from billing.domain.backoff import ExponentialBackoff
from billing.domain.ids import Prefix, encode
from billing.services import dead_letters
from billing.services.leases import LeaseKind
from tests.backbone import SHARDS, Backbone, Effects, Routing, wipe_streams
from workers.healing import Healer, HealingSettings
from workers.metrics import SweeperMetrics
from workers.router.settings import RouterSettings

AT_ONCE = ExponentialBackoff(base_ms=1, cap_ms=1)
EAGER = RouterSettings(retry_every_s=0, failed_backoff=AT_ONCE, attempts_max=2)
HEALING_MAX_S = 120.0  # many passes, each behind what the router has read
EVERYTHING = {"one": None, "two": None}
# As if every event were old enough: the tests' events are committed when they are looked at.
AT_ANY_AGE = HealingSettings(after=timedelta(minutes=-5), slice_events_max=7)


def healer_of(
    backbone: Backbone, wanted: dict[str, Collection[str] | None] | None = None
) -> tuple[Healer, SweeperMetrics]:
    metrics = SweeperMetrics(CollectorRegistry())
    return Healer(
        backbone.ground, EVERYTHING if wanted is None else wanted, AT_ANY_AGE, metrics
    ), metrics


async def heal_all(backbone: Backbone, healer: Healer, routing: Routing, until: UUID) -> None:
    """Checks, publishes and routes until everything up to an event is known to have arrived."""
    async with asyncio.timeout(HEALING_MAX_S):
        while True:
            await healer.step()
            await backbone.dispatch()
            await routing.router.step()
            [state] = await backbone.fetch("SELECT healed_until FROM healing")
            if state["healed_until"] >= until:
                return


async def test_after_all_streams_are_deleted_under_load_every_event_is_handled_once(
    backbone: Backbone,
) -> None:
    resources = [backbone.resource() for _ in range(6)]
    one, two = Effects("one"), Effects("two")
    healer, metrics = healer_of(backbone)
    # Nobody has read these; of what follows, it depends on how far the router has read.
    ids = await backbone.emit(resources)
    await backbone.dispatch()
    await wipe_streams(backbone.nats_url)
    await backbone.bus.ensure_streams(SHARDS)
    async with backbone.router([one.consumer(ordered=True), two.consumer()], EAGER) as routing:
        for turn in range(6):
            ids += await backbone.emit(resources * 5)
            await backbone.dispatch()
            if turn % 2:
                # What is on the bus and not yet routed is lost; what is emitted meanwhile comes through.
                await wipe_streams(backbone.nats_url)
                ids += await backbone.emit(resources)
                await backbone.bus.ensure_streams(SHARDS)
            else:
                await routing.router.step()
        await heal_all(backbone, healer, routing, max(ids))

    assert metrics.events_healed._value.get() >= len(resources)
    for effects in (one, two):
        assert sorted(effects.given) == sorted(ids)
    assert await backbone.count("inbox") == 2 * len(ids)
    for table in ("outbox", "outbox_dead_letters", "router_waiting", "router_dead_letters"):
        assert await backbone.count(table) == 0


async def test_what_waits_is_dead_or_handled_is_not_healed(backbone: Backbone) -> None:
    resource = backbone.resource()
    ids = await backbone.emit([resource] * 5)
    await backbone.dispatch()
    one, two = Effects("one", failing={ids[2]}), Effects("two")
    healer, metrics = healer_of(backbone)
    async with backbone.router([one.consumer(ordered=True), two.consumer()], EAGER) as routing:
        dead = routing.metrics.dead_letters.labels("one")
        await routing.until(lambda: len(two.given) == 5)
        await routing.step_until(lambda: dead._value.get() == 1)
        await heal_all(backbone, healer, routing, ids[-1])

    assert metrics.events_healed._value.get() == 0
    assert await backbone.count("router_waiting") == 2


async def test_nothing_is_checked_while_it_is_queued_or_not_yet_routed(
    backbone: Backbone,
) -> None:
    [event] = await backbone.emit([backbone.resource()])
    healer, _ = healer_of(backbone)
    one, two = Effects("one"), Effects("two")
    async with backbone.router([one.consumer(), two.consumer()]) as routing:
        assert await healer.step() == 0
        await backbone.dispatch()
        assert await healer.step() == 0
        assert await backbone.count("outbox") == 0
        await routing.until(lambda: len(two.given) == 1)
        await heal_all(backbone, healer, routing, event)
    assert await backbone.count("outbox") == 0


async def test_an_outbox_dead_letter_that_is_redriven_is_checked_again(backbone: Backbone) -> None:
    [lost] = await backbone.emit([backbone.resource()])
    await backbone.execute(
        "WITH gone AS (DELETE FROM outbox RETURNING *) INSERT INTO outbox_dead_letters (event_id,"
        " purpose, tenant_id, shard, priority, position, subject, resource, attempts, last_error,"
        " died_at) SELECT event_id, purpose, tenant_id, shard, priority, position, subject,"
        " resource, 5, 'refused', now() FROM gone"
    )
    healer, metrics = healer_of(backbone)
    one, two = Effects("one"), Effects("two")
    async with backbone.router([one.consumer(), two.consumer()]) as routing:
        await heal_all(backbone, healer, routing, lost)
        assert metrics.events_healed._value.get() == 0
        async with backbone.databases.worker.transaction() as tx:
            [dead] = await dead_letters.list_dead(tx, None, before=None, limit=1)
            await dead_letters.redrive(tx, dead.id, None, now=backbone.now)
        [state] = await backbone.fetch("SELECT healed_until FROM healing")
        assert state["healed_until"] < lost
        await heal_all(backbone, healer, routing, lost)
    assert one.given == two.given == [lost]


async def test_where_nothing_is_routed_nothing_is_healed(backbone: Backbone) -> None:
    await backbone.emit([backbone.resource()])
    await backbone.dispatch()
    await wipe_streams(backbone.nats_url)
    healer, _ = healer_of(backbone, {})
    assert [await healer.step() for _ in range(3)] == [0, 0, 0]
    assert await backbone.count("outbox") == 0


async def test_what_the_bus_still_remembers_is_published_under_another_id(
    backbone: Backbone,
) -> None:
    [passed_over] = await backbone.emit([backbone.resource()])
    await backbone.dispatch()
    # The router's position is beyond an event that it never saw, and the stream has its bus id.
    await backbone.keeper(LeaseKind.ROUTER).step()
    await backbone.expire_leases()
    for partition in range(SHARDS):
        state = await backbone.bus.stream_state(partition)
        await backbone.execute(
            "UPDATE router_positions SET stream_identity = $1, last_sequence = $2 WHERE partition = $3",
            state.identity,
            state.last_seq,
            partition,
        )
    healer, _ = healer_of(backbone)
    one, two = Effects("one"), Effects("two")
    async with backbone.router([one.consumer(), two.consumer()]) as routing:
        await heal_all(backbone, healer, routing, passed_over)
    assert one.given == two.given == [passed_over]
    bus_ids = [message.bus_id for held in await backbone.on_bus() for message in held]
    event = encode(Prefix.EVENT, passed_over)
    assert bus_ids == [event, f"{event}:heal_1"]
