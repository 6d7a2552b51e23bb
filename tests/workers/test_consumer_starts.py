"""A consumer that a release adds gets what is made from its registration on: all of that, and nothing of before."""

from __future__ import annotations

import logging
from uuid import UUID

import pytest

from billing.services import consumer_starts
from billing.services.consumer_starts import Starts
from tests.backbone import Backbone, Effects
from tests.workers.test_healing import heal_all, healer_of
from workers.router.consumers import Routes
from workers.router.settings import RouterSettings

EAGER = RouterSettings(retry_every_s=0)
OLD: dict[str, None] = {"old": None}
NEW: dict[str, None] = {"old": None, "new": None}


async def registered(backbone: Backbone, *names: str) -> Starts:
    return await consumer_starts.register(backbone.databases.worker, names, now=backbone.now)


async def found(backbone: Backbone) -> None:
    """The consumer `old` is there from the beginning."""
    await backbone.execute("INSERT INTO router_consumers VALUES ('old', $1)", UUID(int=0))


async def test_a_new_consumer_gets_no_history_neither_from_the_bus_nor_by_healing(
    backbone: Backbone,
) -> None:
    await found(backbone)
    before = await backbone.emit([backbone.resource() for _ in range(20)])
    await backbone.dispatch()
    starts = await registered(backbone, *NEW)
    assert starts["old"] == UUID(int=0)
    assert max(before) < starts["new"]
    assert await registered(backbone, *NEW) == starts
    after = await backbone.emit([backbone.resource() for _ in range(3)])
    await backbone.dispatch()

    old, new = Effects("old"), Effects("new")
    healer, metrics = healer_of(backbone, dict(NEW))
    async with backbone.router([old.consumer(), new.consumer()], EAGER, starts=starts) as routing:
        await routing.until(lambda: len(old.given) == 23)
        await heal_all(backbone, healer, routing, max(after))

    assert sorted(old.given) == sorted(before + after)
    assert sorted(new.given) == sorted(after)
    assert metrics.events_healed._value.get() == 0


async def test_what_an_earlier_release_routes_after_the_registration_is_healed_for_the_new_consumer(
    backbone: Backbone,
) -> None:
    await found(backbone)
    before = await backbone.emit([backbone.resource() for _ in range(4)])
    starts = await registered(backbone, *NEW)
    meanwhile = await backbone.emit([backbone.resource() for _ in range(6)])
    await backbone.dispatch()
    old, new = Effects("old"), Effects("new")
    async with backbone.router([old.consumer()], EAGER) as routing:
        await routing.until(lambda: len(old.given) == 10)
    await backbone.expire_leases()

    healer, metrics = healer_of(backbone, dict(NEW))
    async with backbone.router([old.consumer(), new.consumer()], EAGER, starts=starts) as routing:
        await heal_all(backbone, healer, routing, max(meanwhile))

    assert sorted(new.given) == sorted(meanwhile)
    assert sorted(old.given) == sorted(before + meanwhile)
    assert metrics.events_healed._value.get() == 6


async def test_the_sweeper_of_an_earlier_release_leaves_healing_to_the_newer(
    backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    await found(backbone)
    await registered(backbone, *NEW)
    [event] = await backbone.emit([backbone.resource()])
    await backbone.dispatch()
    old, new = Effects("old"), Effects("new")
    behind, _ = healer_of(backbone, dict(OLD))
    async with backbone.router([old.consumer()], EAGER) as routing:
        await routing.until(lambda: old.given == [event])
        with caplog.at_level(logging.WARNING):
            assert [await behind.step() for _ in range(3)] == [0, 0, 0]
    assert [r.getMessage() for r in caplog.records if "newer release" in r.getMessage()] == [
        "healing is left to a newer release, which has new"
    ]
    [state] = await backbone.fetch("SELECT healed_until FROM healing")
    assert state["healed_until"] == UUID(int=0)
    await backbone.expire_leases()

    healer, _ = healer_of(backbone, dict(NEW))
    async with backbone.router([old.consumer(), new.consumer()], EAGER) as routing:
        await heal_all(backbone, healer, routing, event)
    assert new.given == [event]


async def test_an_unknown_event_that_is_known_later_goes_only_to_those_that_had_begun() -> None:
    early, late = Effects("early"), Effects("late")
    first = UUID(int=2**100)
    consumers = [early.consumer("tenant.created"), late.consumer("tenant.created")]
    routes = Routes(consumers, frozenset({"tenant.created"}), {"late": first})
    before, after = UUID(int=first.int - 1), first

    names = [
        [consumer.name for consumer in routes.late("tenant.created", 1, event) or ()]
        for event in (before, after)
    ]

    assert names == [["early"], ["early", "late"]]
    assert routes.begun(0b11, before) == 0b01
    assert routes.begun(0b11, after) == 0b11
