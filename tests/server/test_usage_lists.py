"""Usage is listed and summarized as a client asks for it: a real server, real calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import grpc
import grpc.aio
import pytest
from tollway.type.v1.time_range_pb2 import TimeRange
from tollway.usage.v1 import usage_service_pb2 as usage
from tollway.usage.v1.usage_service_pb2_grpc import UsageServiceStub

from billing.domain.ids import Prefix, encode
from billing.services.usage_assignment import assign_unassigned
from tests.conftest import Databases
from tests.server.test_usage_calls import stamp
from tests.services.test_usage_fold_revisions import amend, author, fold_until_done, void
from tests.services.usage_server import Client, usage_server
from tests.services.usage_world import World, make_world

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


@pytest.fixture
async def world(databases: Databases) -> World:
    return await make_world(databases)


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with usage_server(world) as client:
        yield client


async def listed(client: Client, **fields: Any) -> list[str]:
    """The keys of all pages, newest first."""
    stub, keys = UsageServiceStub(client.channel), []
    request = usage.ListUsageRequest(**fields)
    while True:
        answer = await stub.ListUsage(request, metadata=client.metadata)
        keys += [record.idempotency_key for record in answer.records]
        if not answer.next_page_token:
            return keys
        request.page_token = answer.next_page_token


async def summarized(client: Client, **fields: Any) -> usage.SummarizeUsageResponse:
    given = {"meter_key": "minutes", "external_customer_id": "UA", **fields}
    request = usage.SummarizeUsageRequest(**given)
    return await UsageServiceStub(client.channel).SummarizeUsage(request, metadata=client.metadata)


def between(start: datetime, end: datetime) -> TimeRange:
    return TimeRange(start=stamp(start), end=stamp(end))


async def test_records_are_listed_page_by_page_newest_first(world: World, client: Client) -> None:
    await world.served()
    await world.customer("DL")
    await world.record(
        *({"key": f"a{n}", "at": world.now - n * DAY} for n in range(7)),
        {"key": "same1", "at": world.now - 3 * DAY},
        {"key": "theirs", "customer": "DL"},
        {"key": "early", "at": world.now - 50 * DAY},
        allow_backfill=True,
    )
    await world.fold()
    await world.record({"key": "new", "at": world.now - HOUR})
    order = ["a0", "new", "a1", "a2", "same1", "a3", "a4", "a5", "a6", "early"]
    for size in (0, 1, 3):
        assert await listed(client, external_customer_id="UA", page_size=size) == order
    used = between(world.now - 4 * DAY, world.now - DAY)
    assert await listed(client, external_customer_id="UA", used=used) == ["a2", "same1", "a3", "a4"]


async def test_records_are_listed_by_where_they_stand(world: World, client: Client) -> None:
    sub = await world.served()
    batch = await world.record(
        {"key": "old", "at": world.now - 20 * DAY},
        {"key": "assigned"},
        {"key": "amended", "quantity": "2"},
        {"key": "gone"},
        {"key": "nobody's", "at": world.now - 50 * DAY},
        allow_backfill=True,
    )
    await world.fold()
    await world.execute(
        "UPDATE usage_periods SET status = 'billed' WHERE period_start = $1", world.now - 40 * DAY
    )
    await amend(world, "amended", at=world.now - 2 * DAY)
    await void(world, "gone")
    await fold_until_done(world)
    await world.record({"key": "pending"})

    async def of(state: str, **fields: Any) -> list[str]:
        value = usage.UsageState.Value(f"USAGE_STATE_{state}")
        return await listed(client, **({"external_customer_id": "UA"} | fields), state=value)

    assert await of("ASSIGNED") == ["assigned", "amended"]
    assert await of("BILLED") == ["old"]
    assert await of("VOIDED") == ["gone"]
    assert await of("PENDING") == ["pending"]
    assert await of("UNASSIGNED") == ["nobody's"]
    request = usage.ListUsageRequest(state=usage.USAGE_STATE_UNASSIGNED)
    stub = UsageServiceStub(client.channel)
    found = await stub.ListUsage(request, metadata=client.metadata)
    assert [one.idempotency_key for one in found.records] == ["nobody's"]
    assert batch.batch_id is not None
    batch_id = encode(Prefix.USAGE_BATCH, batch.batch_id)
    assert await of("ASSIGNED", external_customer_id="", batch_id=batch_id) == [
        "assigned",
        "amended",
    ]
    of_batch = await listed(client, batch_id=batch_id)
    assert of_batch == ["gone", "assigned", "amended", "old", "nobody's"]
    line = {
        "subscription_item_id": encode(Prefix.SUBSCRIPTION_ITEM, sub.item_id),
        "period_start": stamp(world.now - 40 * DAY),
    }
    assert await listed(client, **line) == ["old"]
    assert await listed(client, subscription_id=world.subscription_text(sub), page_size=1) == [
        "gone",
        "assigned",
        "amended",
        "old",
    ]


async def test_a_list_must_say_whose_and_a_token_goes_with_its_list(
    world: World, client: Client
) -> None:
    await world.record({"key": "a"}, {"key": "b"})
    stub = UsageServiceStub(client.channel)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ListUsage(usage.ListUsageRequest(), metadata=client.metadata)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    first = usage.ListUsageRequest(external_customer_id="UA", page_size=1)
    token = (await stub.ListUsage(first, metadata=client.metadata)).next_page_token
    other = usage.ListUsageRequest(state=usage.USAGE_STATE_PENDING, page_token=token)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ListUsage(other, metadata=client.metadata)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_unassigned_usage_is_listed_by_customer_and_meter_and_assigned(
    world: World, client: Client
) -> None:
    await world.customer("DL")
    await world.record(
        {"key": "a", "quantity": "2", "at": world.now - HOUR},
        {"key": "b", "quantity": "3"},
        {"key": "c", "customer": "DL"},
    )
    await world.fold()
    stub = UsageServiceStub(client.channel)
    request = usage.ListUnassignedUsageRequest(page_size=1)
    seen = []
    while True:
        answer = await stub.ListUnassignedUsage(request, metadata=client.metadata)
        seen += [(one.external_customer_id, one.records, one.quantity) for one in answer.usage]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert sorted(seen) == [("DL", 1, "1"), ("UA", 2, "5")]
    sub = await world.served()
    assign = usage.AssignUsageRequest(subscription_id=world.subscription_text(sub))
    assert (await stub.AssignUsage(assign, metadata=client.metadata)).records == 2
    await fold_until_done(world)
    assert (await world.buckets())[sub.item_id][0] == 2
    async with world.worker.transaction() as tx:
        again = await assign_unassigned(tx, world.tenant_id, sub.id, author(world), now=world.now)
    assert again == 0


async def test_records_are_made_to_name_a_subscription(world: World, client: Client) -> None:
    """For items that demand a name: nothing unnamed is theirs, until somebody says so."""
    await world.record({"key": "a"}, {"key": "b"})
    await world.fold()
    sub = await world.served()
    await world.execute("UPDATE subscription_items SET subscription_required = true")
    stub = UsageServiceStub(client.channel)
    text = world.subscription_text(sub)
    free = usage.AssignUsageRequest(subscription_id=text)
    assert (await stub.AssignUsage(free, metadata=client.metadata)).records == 0
    named = usage.AssignUsageRequest(subscription_id=text, idempotency_keys=["a", "nobody"])
    assert (await stub.AssignUsage(named, metadata=client.metadata)).records == 1
    await fold_until_done(world)
    assert await world.buckets() == {sub.item_id: (1, Decimal(1))}


@pytest.mark.parametrize("aggregation", ["sum", "unique"])
async def test_a_day_is_the_zones_day_from_buckets_and_from_records_alike(
    world: World, client: Client, aggregation: str
) -> None:
    """Midnight in Kolkata is no hour of UTC: there only the records can tell."""
    midnight = world.now.replace(hour=0, minute=0, second=0, microsecond=0)
    await world.execute("UPDATE meters SET aggregation = $1, unique_property = 'u'", aggregation)
    await world.served()
    await world.record(
        {"key": "a", "quantity": "2", "at": midnight - DAY, "properties": {"u": "x"}},
        {"key": "b", "quantity": "3", "at": midnight - 6 * HOUR, "properties": {"u": "y"}},
        {"key": "c", "quantity": "4", "at": midnight - 5 * HOUR, "properties": {"u": "y"}},
    )
    await world.fold()
    span = between(midnight - 3 * DAY, midnight)
    day, both = usage.USAGE_GRAIN_DAY, ("9", "2")
    utc = await summarized(client, range=span, grain=day, time_zone="UTC")
    assert [row.quantity for row in utc.rows] == [both[aggregation == "unique"]]
    assert utc.rows[0].stretch == between(midnight - DAY, midnight)
    india = await summarized(client, range=span, grain=day, time_zone="Asia/Kolkata")
    assert [row.quantity for row in india.rows] == (
        ["5", "4"] if aggregation == "sum" else ["2", "1"]
    )
    ends = [row.stretch.end.ToDatetime(UTC) for row in india.rows]
    assert ends == [midnight - 5.5 * HOUR, midnight + 18.5 * HOUR]


async def test_groups_and_periods_are_summarized_and_what_does_not_count_is_not(
    world: World, client: Client
) -> None:
    await world.execute("UPDATE meters SET group_by = '{route}'")
    await world.served()
    await world.record(
        {"key": "a", "quantity": "2", "properties": {"route": "EWR"}},
        {"key": "b", "quantity": "3", "properties": {"route": "JFK"}},
        {"key": "c", "quantity": "4", "at": world.now - 20 * DAY, "properties": {"route": "JFK"}},
        {"key": "d", "quantity": "8"},
        {"key": "e", "quantity": "9"},
    )
    await world.fold()
    await void(world, "e")
    await amend(world, "a", quantity="2.5")
    await fold_until_done(world)
    hour = world.now.replace(minute=0, second=0, microsecond=0)
    for span in (
        between(hour - 40 * DAY, hour + HOUR),
        between(world.now - 40 * DAY, world.now + HOUR),
    ):
        answer = await summarized(client, range=span, grain=usage.USAGE_GRAIN_PERIOD)
        assert [(dict(row.group), row.quantity, row.records) for row in answer.rows] == [
            ({"route": "JFK"}, "4", 1),
            ({"route": ""}, "8", 1),
            ({"route": "EWR"}, "2.5", 1),
            ({"route": "JFK"}, "3", 1),
        ]
        assert answer.rows[0].stretch == between(world.now - 40 * DAY, world.now - 10 * DAY)


@pytest.mark.parametrize("grain", [usage.USAGE_GRAIN_HOUR, usage.USAGE_GRAIN_DAY])
async def test_a_summary_of_too_much_time_is_refused(client: Client, grain: Any) -> None:
    for start, end in ((2020, 2022), (2022, 2020)):
        span = between(datetime(start, 1, 1, tzinfo=UTC), datetime(end, 1, 1, tzinfo=UTC))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await summarized(client, range=span, grain=grain)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
