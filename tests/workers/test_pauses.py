"""Operators pause a shard, a consumer or a tenant: nothing is lost, nobody else waits, all goes through in order."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest

from billing.domain.backoff import ExponentialBackoff
from billing.runtime.ids import new_id
from billing.services import pauses, tenants, waiting
from billing.services.actor import Cause
from billing.services.pauses import (
    AlreadyPaused,
    ConsumerNotFound,
    NotPaused,
    PauseOrder,
    PauseTarget,
    ShardNotFound,
)
from billing.services.waiting import WaitingFilter, WaitReason
from tests.backbone import SHARDS, Backbone, Effects
from workers.router.settings import RouterSettings

AT_ONCE = ExponentialBackoff(base_ms=1, cap_ms=1)
EAGER = RouterSettings(retry_every_s=0, failed_backoff=AT_ONCE, attempts_max=3)
WANTED = {"ordered": None, "free": None}
WHY = PauseOrder("opr_test", "[why]")


async def order(backbone: Backbone, method: str, target: PauseTarget) -> None:
    now = backbone.now
    async with backbone.databases.worker.transaction() as tx:
        if method == "pause":
            await pauses.pause(tx, target, WHY, WANTED, now=now)
        else:
            await pauses.resume(tx, target, now=now)


async def found_tenant(backbone: Backbone) -> UUID:
    """A second tenant: the first of the house is only an id."""
    now = backbone.now
    async with backbone.databases.worker.transaction() as tx:
        draft = tenants.NewTenant("Paused", "live", "UTC")
        tenant = await tenants.create_tenant(tx, draft, Cause("opr", new_id(now)), now=now)
    await backbone.execute("DELETE FROM outbox")
    return tenant.id


async def reasons(backbone: Backbone) -> list[tuple[str, WaitReason]]:
    async with backbone.databases.worker.connection() as connection:
        rows = await waiting.list_waiting(
            connection, WaitingFilter(), WANTED, now=backbone.now, limit=100
        )
    return [(row.row.consumer, row.reason) for row in rows]


def in_order(effects: Effects, expected: Sequence[UUID]) -> bool:
    return [event for event in effects.given if event in set(expected)] == list(expected)


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
async def test_a_paused_consumers_events_wait_and_go_through_in_order_while_others_go_on(
    backbone: Backbone, ordered: bool
) -> None:
    resource = backbone.resource()
    name = "ordered" if ordered else "free"
    paused, other = Effects(name), Effects("other")
    consumers = [paused.consumer(ordered=ordered), other.consumer()]
    ids = await backbone.emit([resource] * 3)
    await backbone.dispatch()
    async with backbone.router(consumers, EAGER) as routing:
        await routing.until(lambda: len(paused.given) == 3)
        await order(backbone, "pause", PauseTarget(consumer=name))
        ids += await backbone.emit([resource] * 4)
        await backbone.dispatch()
        await routing.until(lambda: len(other.given) == 7)
        for _ in range(3):
            await routing.router.step()
        assert len(paused.given) == 3
        assert await reasons(backbone) == [(name, WaitReason.PAUSED)] * 4

        await order(backbone, "resume", PauseTarget(consumer=name))
        # What comes now goes behind what was parked, also for a consumer that keeps no order by itself.
        ids += await backbone.emit([resource] * 2)
        await backbone.dispatch()
        await routing.until(lambda: len(other.given) == 9)
        await routing.step_until(lambda: len(paused.given) == 9)

    assert paused.given == ids
    assert other.given == ids
    assert await backbone.count("router_waiting") == 0
    assert await backbone.count("inbox") == 18


async def test_no_attempt_is_counted_while_paused_and_a_dead_letter_that_is_redriven_waits_too(
    backbone: Backbone,
) -> None:
    [failing, _] = await backbone.emit([backbone.resource(), backbone.resource()])
    await backbone.dispatch()
    effects = Effects("free", failing={failing})
    patient = RouterSettings(retry_every_s=0, failed_backoff=AT_ONCE, attempts_max=1_000_000)
    async with backbone.router([effects.consumer()], patient) as routing:
        await routing.until(lambda: routing.metrics.routed._value.get() == 2)
        await order(backbone, "pause", PauseTarget(consumer="free"))
        [before] = await backbone.fetch("SELECT attempts FROM router_waiting")
        for _ in range(4):
            await backbone.execute("UPDATE router_waiting SET next_attempt_at = now()")
            await routing.router.step()
        [after] = await backbone.fetch(
            "SELECT attempts, next_attempt_at = 'infinity' AS still FROM router_waiting"
        )
        assert (after["attempts"], after["still"]) == (before["attempts"], True)
        effects.failing.clear()
        await order(backbone, "resume", PauseTarget(consumer="free"))
        await routing.step_until(lambda: failing in effects.given)

    assert await backbone.count("router_waiting") == 0


async def test_a_paused_tenant_is_neither_published_nor_handled_and_delays_no_other(
    backbone: Backbone,
) -> None:
    healthy = backbone.tenant
    paused = await found_tenant(backbone)
    resource = backbone.resource()
    free, ordered = Effects("free"), Effects("ordered")
    consumers = [free.consumer(), ordered.consumer(ordered=True)]
    target = PauseTarget(tenant_id=paused)

    backbone.tenant = paused
    ids = await backbone.emit([resource] * 2)
    await backbone.dispatch()
    await order(backbone, "pause", target)
    ids += await backbone.emit([resource] * 300)
    backbone.tenant = healthy
    others = await backbone.emit([backbone.resource() for _ in range(5)])
    await backbone.dispatch()
    # Those of the paused tenant wait in the outbox, and those that were on the bus already wait in the router.
    assert await backbone.count("outbox") == 300
    async with backbone.router(consumers, EAGER) as routing:
        await routing.until(lambda: set(others) == set(free.given) == set(ordered.given))
        await routing.router.step()
        assert await reasons(backbone) == [
            (name, WaitReason.PAUSED) for _ in range(2) for name in ("free", "ordered")
        ]

        await order(backbone, "resume", target)
        await backbone.dispatch()
        await routing.step_until(lambda: len(free.given) == len(ordered.given) == 307)

    assert in_order(free, ids)
    assert in_order(ordered, ids)
    assert await backbone.count("router_waiting") == 0
    assert await backbone.count("inbox") == 2 * 307


async def test_a_paused_shard_is_not_published_and_the_others_are(backbone: Backbone) -> None:
    await backbone.emit([backbone.resource() for _ in range(60)])
    await order(backbone, "pause", PauseTarget(shard=1))
    await backbone.dispatch()
    held = [len(messages) for messages in await backbone.on_bus()]
    assert held[1] == 0
    assert held[0] + await backbone.count("outbox WHERE shard = 1") == 60

    await order(backbone, "resume", PauseTarget(shard=1))
    assert await backbone.count("pauses") == 0
    await backbone.dispatch()
    assert sum(len(messages) for messages in await backbone.on_bus()) == 60


async def test_a_pause_that_has_been_resumed_is_over_when_all_has_gone_through(
    backbone: Backbone,
) -> None:
    effects = Effects("free")
    settings = RouterSettings(retry_every_s=0, release_events_max=3, retry_events_max=2)
    async with backbone.router([effects.consumer()], settings) as routing:
        await order(backbone, "pause", PauseTarget(consumer="free"))
        ids = await backbone.emit([backbone.resource() for _ in range(20)])
        await backbone.dispatch()
        await routing.until(lambda: routing.metrics.routed._value.get() == 20)
        await order(backbone, "resume", PauseTarget(consumer="free"))
        [state] = await backbone.fetch("SELECT * FROM pauses")
        assert state["resumed_at"] is not None
        await routing.step_until(lambda: set(effects.given) == set(ids))
        await routing.router.step()
        await routing.router.step()

    assert await backbone.count("pauses") == 0


async def test_a_pause_waits_for_the_cycle_that_is_under_way(backbone: Backbone) -> None:
    """The pause is made under the position rows: a router's transaction comes before it or sees it."""
    async with (
        backbone.router([Effects("free").consumer()]),
        backbone.databases.worker.transaction() as tx,
    ):
        await tx.execute("SELECT 1 FROM router_positions WHERE partition = 0 FOR NO KEY UPDATE")
        short = "SET LOCAL lock_timeout = '50ms'"
        async with backbone.databases.worker.transaction() as other:
            await other.execute(short)
            with pytest.raises(Exception, match="lock timeout"):
                await pauses.pause(
                    other, PauseTarget(consumer="free"), WHY, WANTED, now=backbone.now
                )


async def test_what_cannot_be_paused_is_refused_by_name(
    backbone: Backbone,
) -> None:
    with pytest.raises(ConsumerNotFound, match="ordered, free"):
        await order(backbone, "pause", PauseTarget(consumer="ghost"))
    with pytest.raises(ShardNotFound):
        await order(backbone, "pause", PauseTarget(shard=SHARDS))
    with pytest.raises(tenants.TenantNotFound):
        await order(backbone, "pause", PauseTarget(tenant_id=new_id(backbone.now)))
    with pytest.raises(NotPaused):
        await order(backbone, "resume", PauseTarget(consumer="free"))
    tenant = PauseTarget(tenant_id=await found_tenant(backbone))
    for target in (PauseTarget(consumer="free"), PauseTarget(shard=0), tenant):
        await order(backbone, "pause", target)
        with pytest.raises(AlreadyPaused):
            await order(backbone, "pause", target)
        await order(backbone, "resume", target)
