"""The sweeper: partitions are there before their time, old answers go, and nothing unrouted leaves the bus."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from tollway.tenant.v1 import tenant_events_pb2

from billing.runtime.bus.base import StreamState
from billing.runtime.bus.connect import connect_bus
from billing.services import operations_status
from billing.services.subjects import known_subjects
from billing.services.upkeep import trim_to
from tests.backbone import BUS, SHARDS, Backbone, Effects, wipe_streams
from workers.lag import LagWatcher
from workers.metrics import LagMetrics, SweeperMetrics
from workers.sweeper import Sweeper, SweeperSettings


def sweeper_of(backbone: Backbone, settings: SweeperSettings | None = None) -> Sweeper:
    metrics = SweeperMetrics(CollectorRegistry())
    return Sweeper(backbone.ground, settings or SweeperSettings(), metrics)


async def test_partitions_are_made_at_least_fourteen_days_ahead_and_once(
    backbone: Backbone,
) -> None:
    await sweeper_of(backbone).step()
    made = await backbone.fetch("SELECT inhrelid FROM pg_inherits")
    await sweeper_of(backbone).step()
    assert len(await backbone.fetch("SELECT inhrelid FROM pg_inherits")) == len(made)

    then = backbone.now + timedelta(days=14)
    milliseconds = int(then.timestamp() * 1000)
    await backbone.execute(
        "INSERT INTO inbox (consumer, event_id, tenant_id)"
        " VALUES ('c', (rpad(lpad(to_hex($1::bigint), 12, '0'), 32, '0'))::uuid, gen_random_uuid())",
        milliseconds,
    )
    assert await backbone.count("inbox") == 1


async def test_counts_of_usage_records_are_kept_for_four_hundred_days(backbone: Backbone) -> None:
    await backbone.execute(
        "INSERT INTO tenants (id, display_name, mode, time_zone, created_at)"
        " VALUES ($1, 'Acme', 'test', 'UTC', now())",
        backbone.tenant,
    )
    await backbone.execute(
        "INSERT INTO usage_record_counts (tenant_id, day, records)"
        " SELECT $1, $2::date - n, 1 FROM generate_series(0, 410) n",
        backbone.tenant,
        backbone.now,
    )
    sweeper = sweeper_of(backbone, SweeperSettings(record_counts_at_once_max=5))

    assert [await sweeper.step() for _ in range(4)] == [5, 5, 0, 0]

    assert await backbone.count("usage_record_counts") == 401


async def test_old_answers_go_in_small_steps_and_young_ones_stay(backbone: Backbone) -> None:
    await backbone.execute(
        "INSERT INTO idempotent_requests (tenant_id, principal, method, request_id, body_hash, created_at)"
        " SELECT $1, $1, 'm', n::text, '', now() - make_interval(hours => n) FROM generate_series(1, 60) n",
        uuid4(),
    )
    sweeper = sweeper_of(backbone, SweeperSettings(answers_at_once_max=5))

    assert [await sweeper.step() for _ in range(4)] == [5, 5, 0, 0]

    assert await backbone.count("idempotent_requests") == 47


async def test_only_what_is_routed_is_trimmed(backbone: Backbone) -> None:
    await backbone.emit([backbone.resource() for _ in range(20)])
    await backbone.dispatch()
    effects = Effects("every")
    sweeper = sweeper_of(backbone, SweeperSettings(bus_retention=timedelta(seconds=-5)))
    await sweeper.step()
    assert sum(map(len, await backbone.on_bus())) == 20

    async with backbone.router([effects.consumer()]) as routing:
        await routing.until(lambda: len(effects.given) == 20)
    await backbone.emit([backbone.resource() for _ in range(7)])
    await backbone.dispatch()
    await sweeper.step()

    assert sum(map(len, await backbone.on_bus())) == 7
    async with backbone.router([effects.consumer()]) as routing:
        await routing.until(lambda: len(effects.given) == 27)
        assert routing.metrics.gaps._value.get() == 0


async def test_of_a_stream_that_is_nearly_full_the_oldest_routed_messages_go_and_no_unrouted(
    backbone: Backbone,
) -> None:
    bus = await connect_bus(backbone.nats_url, replace(BUS, stream_max_bytes=2**21))
    await bus.ensure_streams(SHARDS)
    large = tenant_events_pb2.TenantCreated(tenant_id="x" * 200_000)
    await backbone.emit([backbone.resource()] * 9, large)
    await backbone.dispatch()
    sweeper = sweeper_of(backbone)
    await sweeper.step()
    assert sum(map(len, await backbone.on_bus())) == 9
    effects = Effects("every")
    async with backbone.router([effects.consumer()]) as routing:
        await routing.until(lambda: len(effects.given) == 9)
    await sweeper.step()
    left = sum(map(len, await backbone.on_bus()))
    assert 0 < left < 9
    await sweeper.step()
    # It is no longer nearly full, and what is left is younger than the retention.
    assert sum(map(len, await backbone.on_bus())) == left
    await bus.close()


async def test_a_deleted_stream_is_made_again(backbone: Backbone) -> None:
    await backbone.emit([backbone.resource()])
    await backbone.dispatch()
    async with backbone.router([Effects("every").consumer()]):
        pass
    await wipe_streams(backbone.nats_url)
    await sweeper_of(backbone).step()
    assert len(await backbone.on_bus()) == SHARDS


@given(
    first=st.integers(1, 1000),
    length=st.integers(0, 1000),
    routed=st.integers(0, 3000),
    old=st.integers(0, 3000),
    stored_percent=st.integers(0, 100),
)
def test_a_trim_never_goes_beyond_what_is_routed(
    first: int, length: int, routed: int, old: int, stored_percent: int
) -> None:
    stream = StreamState("s", first, first + length - 1, stored_percent * 10, 1000)
    up_to = trim_to(stream, routed, old)
    assert up_to <= routed
    if stored_percent < 80:
        assert up_to <= old
    elif routed > first:
        assert up_to >= first


def test_every_subject_of_the_contract_is_known() -> None:
    subjects = known_subjects()
    assert {"subscription.created", "usage.reported", "billing.cycle.closed"} <= subjects
    assert all("." in subject for subject in subjects)


async def test_the_status_counts_what_waits_and_names_the_holders(backbone: Backbone) -> None:
    await backbone.emit([backbone.resource() for _ in range(3)])
    _, _, keeper = await backbone.dispatcher()
    async with backbone.databases.worker.connection() as connection:
        queues = {q.name: q for q in await operations_status.list_queues(connection)}
        leases = await operations_status.list_leases(connection)
    outbox = queues["outbox"]
    assert outbox.pending == 3
    assert outbox.oldest is not None
    assert abs(outbox.oldest - backbone.now) < timedelta(seconds=30)
    assert {name for name, queue in queues.items() if queue.pending} == {"outbox"}
    assert [(lease.shard, lease.holder) for lease in leases] == [
        (0, keeper.holder),
        (1, keeper.holder),
    ]
    # A tenant sees its own part.
    async with backbone.databases.api.transaction(uuid4()) as tx:
        assert {queue.pending for queue in await operations_status.list_queues(tx)} == {0}


async def test_the_lag_is_shown_as_gauges(backbone: Backbone) -> None:
    registry = CollectorRegistry()
    watcher = LagWatcher(backbone.ground, {"slow": None}, LagMetrics(registry))
    await backbone.emit([backbone.resource() for _ in range(10)])
    await backbone.dispatch()
    await backbone.emit([backbone.resource() for _ in range(7)])
    effects = Effects("slow")
    async with backbone.router([effects.consumer()]):
        pass  # it has its positions, and has routed nothing
    await backbone.execute(
        "INSERT INTO router_waiting (consumer, resource, resource_version, event_id, tenant_id, partition, subject,"
        " next_attempt_at, parked_at) SELECT 'slow', resource, 1, event_id, tenant_id, 0, subject, now(),"
        " now() - interval '1 hour' FROM outbox LIMIT 2"
    )
    await watcher.step()

    def gauge(name: str, label: str, values: Sequence[object]) -> list[float | None]:
        return [registry.get_sample_value(f"tollway_{name}", {label: str(v)}) for v in values]

    shards = list(range(SHARDS))
    assert sum(v or 0 for v in gauge("outbox_pending", "shard", shards)) == 7
    assert sum(v or 0 for v in gauge("router_unrouted", "partition", shards)) == 10
    assert gauge("consumer_waiting", "consumer", ["slow", "*"]) == [2, 0]
    [age] = gauge("consumer_oldest_seconds", "consumer", ["slow"])
    assert age is not None
    assert 3600 <= age < 3700

    await wipe_streams(backbone.nats_url)
    await watcher.step()
    # A bus that cannot tell leaves the figure unknown, not zero.
    assert all(math.isnan(v or 0) for v in gauge("router_unrouted", "partition", shards))
