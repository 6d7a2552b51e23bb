"""Router: an ordered consumer gets the events of a resource in order, whatever becomes of one of them."""

from __future__ import annotations

from tollway.subscription.v1 import subscription_events_pb2

from billing.domain.backoff import ExponentialBackoff
from tests.backbone import Backbone, Effects
from workers.router.settings import RouterSettings

AT_ONCE = ExponentialBackoff(base_ms=1, cap_ms=1)
EAGER = RouterSettings(retry_every_s=0, failed_backoff=AT_ONCE, attempts_max=3)
PATIENT = RouterSettings(retry_every_s=0, failed_backoff=AT_ONCE, attempts_max=1_000_000)
CREATED = subscription_events_pb2.SubscriptionCreated()


async def test_later_events_of_a_resource_wait_behind_the_one_that_fails(
    backbone: Backbone,
) -> None:
    ill, well = backbone.resource(), backbone.resource()
    ids = await backbone.emit([ill, well] * 5)
    of_ill, of_well = ids[::2], ids[1::2]
    await backbone.dispatch()
    ordered, free = Effects("ordered", failing={of_ill[1]}), Effects("free")
    consumers = [ordered.consumer(ordered=True), free.consumer()]
    async with backbone.router(consumers, PATIENT) as routing:
        await routing.until(
            lambda: len(set(free.given)) == 10 and set(ordered.given) == {*of_well, of_ill[0]}
        )
        rows = await backbone.fetch("SELECT * FROM router_waiting ORDER BY resource_version")
        assert [row["event_id"] for row in rows] == of_ill[1:]
        assert [row["attempts"] > 0 for row in rows] == [True, False, False, False]
        # What is emitted later follows them, though the head is not in its batch.
        [late] = await backbone.emit([ill])
        await backbone.dispatch()
        await routing.until(lambda: late in free.given)
        assert late not in ordered.given
        ordered.failing.clear()
        await routing.step_until(lambda: late in ordered.given)

    assert _in_order(ordered, [*of_ill, late])
    assert await backbone.count("router_waiting") == 0
    assert await backbone.count("effects WHERE consumer = 'ordered'") == 11


async def test_followers_of_a_dead_event_wait_and_never_die(backbone: Backbone) -> None:
    resource = backbone.resource()
    ids = await backbone.emit([resource] * 4)
    await backbone.dispatch()
    ordered, free = Effects("ordered", failing={ids[0]}), Effects("free", failing={ids[0]})
    consumers = [ordered.consumer(ordered=True), free.consumer()]
    async with backbone.router(consumers, EAGER) as routing:
        dead = [routing.metrics.dead_letters.labels(name) for name in ("ordered", "free")]
        await routing.until(lambda: set(free.given) == set(ids[1:]))
        await routing.step_until(lambda: all(each._value.get() == 1 for each in dead))
        for _ in range(5):
            await backbone.execute("UPDATE router_waiting SET next_attempt_at = '-infinity'")
            assert await routing.router.step() == 0
        rows = await backbone.fetch("SELECT * FROM router_waiting ORDER BY resource_version")
        assert [row["event_id"] for row in rows] == ids[1:]
        assert {row["attempts"] for row in rows} == {0}

    assert ordered.given == []
    assert await backbone.count("router_dead_letters") == 2


async def test_an_event_that_is_dead_is_not_handled_when_the_bus_brings_it_again(
    backbone: Backbone,
) -> None:
    resource = backbone.resource()
    [poison] = await backbone.emit([resource])
    await backbone.dispatch()
    effects = Effects("any", failing={poison})
    async with backbone.router([effects.consumer()], EAGER) as routing:
        dead = routing.metrics.dead_letters.labels("any")
        await routing.until(lambda: routing.metrics.routed._value.get() == 1)
        await routing.step_until(lambda: dead._value.get() == 1)
    effects.failing.clear()
    await backbone.expire_leases()
    # As after a change of the stream: everything is read once more.
    await backbone.execute("UPDATE router_positions SET stream_identity = 'another'")
    async with backbone.router([effects.consumer()], EAGER) as routing:
        await routing.until(lambda: routing.metrics.routed._value.get() == 1)

    assert effects.given == []
    assert await backbone.count("router_dead_letters") == 1
    assert await backbone.count("inbox") == 0


async def test_an_unknown_subject_holds_its_resource_for_ordered_consumers_only(
    backbone: Backbone,
) -> None:
    resource = backbone.resource()
    [first] = await backbone.emit([resource])
    [unknown] = await backbone.emit([resource], CREATED)
    [last] = await backbone.emit([resource])
    await backbone.dispatch()
    subjects = ("tenant.created", "subscription.created")
    ordered, free = Effects("ordered"), Effects("free")
    old = [ordered.consumer("tenant.created", ordered=True), free.consumer()]
    async with backbone.router(old, EAGER, known={"tenant.created"}) as routing:
        await routing.until(lambda: len(free.given) == 3)
    rows = await backbone.fetch("SELECT * FROM router_waiting ORDER BY resource_version")
    assert [(row["consumer"], row["event_id"]) for row in rows] == [
        ("*", unknown),
        ("ordered", last),
    ]
    await backbone.expire_leases()
    await backbone.execute("UPDATE router_waiting SET next_attempt_at = '-infinity'")

    new = [ordered.consumer(*subjects, ordered=True), free.consumer()]
    async with backbone.router(new, EAGER) as routing:
        await routing.step_until(lambda: last in ordered.given)

    assert ordered.given == [first, unknown, last]
    assert free.given == [first, unknown, last]
    assert await backbone.count("router_waiting") == 0


def _in_order(effects: Effects, expected: list[object]) -> bool:
    handled = [event for event in effects.given if event in set(expected)]
    return handled == expected
