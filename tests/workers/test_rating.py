"""Usage path, step 3: due subscriptions are rated together, told of together, and fail alone."""

from __future__ import annotations

import asyncio
from datetime import UTC, timedelta
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf.message import Message
from tollway.event.v1 import event_pb2
from tollway.rating.v1 import rating_events_pb2
from tollway.usage.v1 import usage_events_pb2

from billing.domain.ids import Prefix, encode
from billing.services.charges import Charges, get_charges
from billing.services.rating import RatingSettings
from billing.services.usage_fold import fold
from tests.conftest import Databases
from tests.services.usage_world import Sub, World, make_world
from workers.rating import RatingWorker

DAY = timedelta(days=1)


@pytest.fixture
async def world(databases: Databases) -> World:
    return await make_world(databases)


def worker_of(world: World, **settings: Any) -> RatingWorker:
    return RatingWorker(world.worker, world.databases.clock, RatingSettings(**settings))


async def told(world: World, kind: type[Message]) -> list[tuple[event_pb2.Event, Any]]:
    """The events with this payload, oldest first, with their payloads."""
    found = []
    for row in await world.rows("SELECT envelope FROM billing_events ORDER BY id"):
        envelope, payload = event_pb2.Event.FromString(row["envelope"]), kind()
        if envelope.data.Unpack(payload):
            found.append((envelope, payload))
    return found


async def charges_of(world: World, sub: Sub) -> Charges:
    async with world.databases.api.transaction(world.tenant_id) as tx:
        return await get_charges(tx, world.tenant_id, subscription_id=sub.id)


async def use(world: World, key: str, quantity: str, **record: Any) -> None:
    await world.record({"key": key, "quantity": quantity, **record})
    assert await world.fold() == set()


async def allow_again(world: World) -> None:
    """As if the interval and every pause had passed."""
    await world.execute(
        "UPDATE subscriptions SET rated_at = rated_at - interval '1 hour',"
        " rating_retry_at = rating_retry_at - interval '1 hour' WHERE true"
    )


async def test_a_marked_subscription_is_charged_and_told_of_by_two_events(world: World) -> None:
    sub = await world.served()
    await use(world, "a", "12.345")
    await use(world, "old", "10", at=world.now - 20 * DAY)

    assert await worker_of(world).step() == 1

    charges = await charges_of(world, sub)
    assert [(row.quantity, row.amount, row.currency) for row in charges.rows] == [
        (Decimal(10), 100, "EUR"),
        (Decimal("12.345"), 123, "EUR"),
    ]
    assert charges.failure == ""
    ((rated, usage),) = await told(world, usage_events_pb2.UsageRated)
    ((completed, rating),) = await told(world, rating_events_pb2.RatingCompleted)
    assert {period.quantity for period in usage.periods} == {"10", "12.345"}
    assert (rating.total.minor_units, rating.total.currency_code) == (223, "EUR")
    assert rated.resource_id == completed.resource_id == encode(Prefix.SUBSCRIPTION, sub.id)
    assert (rated.resource_version, completed.resource_version) == (2, 3)
    statuses = await world.rows("SELECT DISTINCT status FROM usage_periods")
    assert [row["status"] for row in statuses] == ["rated"]
    assert await world.value("SELECT count(*) FROM usage_period_marks") == 0


async def test_a_rating_has_a_correlation_of_its_own_and_links_its_causes(world: World) -> None:
    await world.served()
    for n in range(35):
        await use(world, str(n), "1")
    causes = [
        (event.envelope.id, event.envelope.correlation_id) for event in await world.reported()
    ]
    await worker_of(world).step()
    ((rated, _),) = await told(world, usage_events_pb2.UsageRated)
    ((completed, _),) = await told(world, rating_events_pb2.RatingCompleted)
    assert rated.correlation_id == completed.correlation_id
    assert rated.correlation_id not in {correlation for _, correlation in causes}
    assert [(link.event_id, link.correlation_id) for link in rated.links] == causes[:32]
    assert rated.actor == "worker:rating"


async def test_nothing_is_rated_without_new_usage(world: World) -> None:
    await world.served()
    assert await worker_of(world).step() == 0
    await use(world, "a", "1")
    assert await worker_of(world).step() == 1
    await allow_again(world)
    assert await worker_of(world).step() == 0
    assert len(await told(world, usage_events_pb2.UsageRated)) == 1


async def test_a_subscription_is_rated_at_most_once_per_interval(world: World) -> None:
    sub = await world.served()
    worker = worker_of(world, interval_s=60.0)
    await use(world, "a", "1")
    assert await worker.step() == 1
    await use(world, "b", "1")
    assert await worker.step() == 0
    await allow_again(world)
    assert await worker.step() == 1
    assert (await charges_of(world, sub)).rows[0].quantity == 2


async def test_a_test_clock_on_its_way_does_not_wait_for_the_interval(world: World) -> None:
    await world.served()
    worker = worker_of(world, interval_s=60.0)
    await use(world, "a", "1")
    await worker.step()
    await use(world, "b", "1")
    await world.execute(
        "INSERT INTO test_clocks (tenant_id, business_time, target_time, status, created_at)"
        " VALUES ($1, $2, $3, 'advancing', $2)",
        world.tenant_id,
        world.now + DAY,
        world.now + 2 * DAY,
    )
    assert await worker.step() == 1
    envelope, _ = (await told(world, usage_events_pb2.UsageRated))[-1]
    assert envelope.occurred_at.ToDatetime(UTC) == world.now + DAY


async def test_one_price_that_fails_leaves_the_others_alone(world: World) -> None:
    """The failure stands on its subscription with its reason, is told alone, and is tried again later."""
    await world.customer("DL")
    good = await world.served("UA")
    wrong = await world.price("minutes", "graduated", '{"tiers": []}')
    bad = await world.served("DL", price_id=wrong)
    await use(world, "a", "5")
    await use(world, "b", "5", customer="DL")

    assert await worker_of(world).step() == 2

    assert (await charges_of(world, good)).rows[0].amount == 50
    failed = await charges_of(world, bad)
    assert (list(failed.rows), "tiers" in failed.failure) == ([], True)
    ((event, payload),) = await told(world, rating_events_pb2.RatingFailed)
    assert payload.subscription_id == event.resource_id == encode(Prefix.SUBSCRIPTION, bad.id)
    assert payload.message == failed.failure
    rated = await told(world, usage_events_pb2.UsageRated)
    assert {payload.subscription_id for _, payload in rated} == {
        encode(Prefix.SUBSCRIPTION, good.id)
    }

    assert await worker_of(world).step() == 0
    await allow_again(world)
    assert await worker_of(world).step() == 1
    (row,) = await world.rows("SELECT * FROM subscriptions WHERE id = $1", bad.id)
    assert (row["rating_attempts"], row["rating_failure"]) == (2, "INVALID_PRICE")
    assert row["rating_retry_at"] > world.now


async def test_a_mended_subscription_is_rated_with_all_that_waited(world: World) -> None:
    wrong = await world.price("minutes", "graduated", '{"tiers": []}')
    right = await world.price("minutes")
    sub = await world.served(price_id=wrong)
    await use(world, "a", "5")
    await worker_of(world).step()
    await world.execute("UPDATE usage_periods SET price_id = $1", right)
    await use(world, "b", "6")
    await allow_again(world)
    assert await worker_of(world).step() == 1
    charges = await charges_of(world, sub)
    assert ([row.amount for row in charges.rows], charges.failure) == ([110], "")


async def test_an_amount_beyond_every_currency_fails_alone(world: World) -> None:
    dear = await world.price("minutes", "per_unit", '{"unit_amount": "100000"}')
    sub = await world.served(price_id=dear)
    await use(world, "a", "9" * 15)
    assert await worker_of(world).step() == 1
    ((_, payload),) = await told(world, rating_events_pb2.RatingFailed)
    assert payload.message == (await charges_of(world, sub)).failure


async def test_marks_of_a_billed_period_are_dropped_without_a_word(world: World) -> None:
    await world.served()
    await use(world, "a", "1")
    await world.execute("UPDATE usage_periods SET status = 'billed' WHERE true")
    await worker_of(world).step()
    assert await world.value("SELECT count(*) FROM usage_period_marks") == 0
    assert await world.value("SELECT count(*) FROM charges") == 0
    assert await told(world, usage_events_pb2.UsageRated) == []


async def test_trial_usage_is_shown_and_costs_nothing(world: World) -> None:
    sub = await world.served()
    await world.execute(
        "UPDATE usage_periods SET bill_kind = NULL, bill_boundary = NULL WHERE true"
    )
    await use(world, "a", "8")
    await worker_of(world).step()
    ((row),) = (await charges_of(world, sub)).rows
    assert (row.quantity, row.amount) == (Decimal(8), 0)
    ((_, rating),) = await told(world, rating_events_pb2.RatingCompleted)
    assert rating.total.minor_units == 0


async def test_adjustments_are_left_to_the_invoices(world: World) -> None:
    sub = await world.subscribe("UA", world.now - 40 * DAY)
    await world.period(sub, world.now - 40 * DAY, world.now + DAY, status="billed")
    await use(world, "a", "1")
    assert await worker_of(world).step() == 0
    assert await world.value("SELECT kind FROM usage_period_marks") == "adjust"


async def test_a_worker_goes_round_all_subscriptions_in_batches(world: World) -> None:
    for n in range(7):
        await world.customer(f"C{n}")
        await world.served(f"C{n}")
        await use(world, f"k{n}", "1", customer=f"C{n}")
    worker = worker_of(world, batch_max=3, walk_max=3)
    steps = [await worker.step() for _ in range(3)]
    assert sum(steps) == 7
    assert await world.value("SELECT count(*) FROM charges") == 7
    assert await worker.step() == 0


async def test_several_workers_rate_each_subscription_once(world: World) -> None:
    for n in range(20):
        await world.customer(f"C{n}")
        await world.served(f"C{n}")
    await world.record(*({"key": f"k{n}", "customer": f"C{n}"} for n in range(20)))
    await world.fold()
    workers = [worker_of(world, batch_max=6) for _ in range(4)]
    for _ in range(4):
        await asyncio.gather(*(worker.step() for worker in workers))
    assert len(await told(world, usage_events_pb2.UsageRated)) == 20
    assert len(await told(world, rating_events_pb2.RatingCompleted)) == 20


async def test_usage_folded_while_a_rating_runs_is_rated_the_next_time(world: World) -> None:
    """A rating takes away the marks that it saw, and no others: a fold that commits behind it is not lost."""
    sub = await world.served()
    await use(world, "a", "1")
    await world.record({"key": "b", "quantity": "2"})
    late = (await world.reported())[1:]
    async with world.worker.transaction() as tx:
        await fold(tx, late, world.now)
        # The first rating of a period moves its status, for which it waits until this fold lets go.
        rating = asyncio.create_task(worker_of(world).step())
        while not await world.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - the database sends no event
            await asyncio.sleep(0.005)
        assert not rating.done()
    assert await rating == 1
    assert [row.quantity for row in (await charges_of(world, sub)).rows] == [Decimal(1)]
    await allow_again(world)
    await worker_of(world).step()
    (row,) = (await charges_of(world, sub)).rows
    assert (row.quantity, row.amount) == (Decimal(3), 30)
