"""Backfill jobs and thresholds as a client meets them: a real server, real calls, and a rating worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tollway.event.v1 import event_pb2
from tollway.type.v1.money_pb2 import Money
from tollway.usage.v1 import backfill_service_pb2 as backfills
from tollway.usage.v1 import threshold_service_pb2 as thresholds
from tollway.usage.v1 import usage_service_pb2 as usage
from tollway.usage.v1.backfill_service_pb2_grpc import BackfillServiceStub
from tollway.usage.v1.threshold_service_pb2_grpc import ThresholdServiceStub
from tollway.usage.v1.usage_events_pb2 import UsageThresholdCrossed
from tollway.usage.v1.usage_service_pb2_grpc import UsageServiceStub

from billing.services.rating import RatingSettings
from tests.conftest import Databases
from tests.server.test_usage_calls import record, stamp
from tests.server.test_usage_corrections import reason_of
from tests.server.test_usage_lists import listed
from tests.services.test_usage_fold_revisions import fold_until_done, periods_of, unreconciled
from tests.services.usage_server import Client, usage_server
from tests.services.usage_world import World, make_world
from workers.rating import RatingWorker

DAY = timedelta(days=1)


@pytest.fixture
async def world(databases: Databases) -> World:
    return await make_world(databases)


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with usage_server(world) as client:
        yield client


async def batch(client: Client, backfill_id: str, *records: Any) -> Any:
    request = usage.BatchRecordUsageRequest(records=records, backfill_id=backfill_id)
    stub = UsageServiceStub(client.channel)
    return await stub.BatchRecordUsage(request, metadata=client.metadata)


async def made(client: Client, name: str) -> backfills.Backfill:
    request = backfills.CreateBackfillRequest(name=name, note="from the old system")
    stub = BackfillServiceStub(client.channel)
    return (await stub.CreateBackfill(request, metadata=client.metadata)).backfill


async def reverted(client: Client, backfill_id: str) -> backfills.RevertBackfillResponse:
    request = backfills.RevertBackfillRequest(backfill_id=backfill_id, note="wrong file")
    return await BackfillServiceStub(client.channel).RevertBackfill(
        request, metadata=client.metadata
    )


async def test_a_backfill_takes_old_records_and_gives_them_back_as_a_whole(
    world: World, client: Client
) -> None:
    sub = await world.subscribe("UA", world.now - 90 * DAY)
    await world.period(sub, world.now - 90 * DAY, world.now + DAY, status="billed")
    job = await made(client, "2012")
    old = stamp(world.now - 60 * DAY)
    await world.record({"key": "before"})
    answer = await batch(client, job.id, record("a", old), record("b", old), record("before", old))
    assert (answer.accepted, answer.conflict) == (2, 1)
    assert (await batch(client, job.id, record("a", old), record("c", old))).accepted == 1
    await fold_until_done(world)
    assert await listed(client, backfill_id=job.id) == ["c", "b", "a"]
    stub = BackfillServiceStub(client.channel)
    shown = await stub.GetBackfill(
        backfills.GetBackfillRequest(name="2012"), metadata=client.metadata
    )
    assert (shown.backfill.records, shown.backfill.status) == (3, backfills.BACKFILL_STATUS_OPEN)

    first = await reverted(client, job.id)
    assert (first.voided, first.backfill.status) == (3, backfills.BACKFILL_STATUS_REVERTED)
    assert (await reverted(client, job.id)).voided == 0
    await fold_until_done(world)
    assert await periods_of(world) == {world.now - 90 * DAY: (1, Decimal(1), Decimal(1))}
    assert await unreconciled(world) == 0
    voided = usage.USAGE_STATE_VOIDED
    assert await listed(client, backfill_id=job.id, state=voided) == ["c", "b", "a"]
    assert await reason_of(batch(client, job.id, record("d", old))) == "BACKFILL_CLOSED"
    assert await world.value("SELECT count(*) FROM audit_log WHERE note = 'wrong file'") == 2


async def test_backfills_are_listed_and_have_names_of_their_own(
    world: World, client: Client
) -> None:
    ids = [(await made(client, name)).id for name in ("one", "two", "three")]
    assert await reason_of(made(client, "one")) == "ALREADY_EXISTS"
    stub = BackfillServiceStub(client.channel)
    request, seen = backfills.ListBackfillsRequest(page_size=2), []
    while True:
        answer = await stub.ListBackfills(request, metadata=client.metadata)
        seen += [one.id for one in answer.backfills]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert seen == ids[::-1]
    unknown = ids[0][:-1] + ("0" if ids[0][-1] != "0" else "1")
    assert await reason_of(batch(client, unknown, record("a", stamp(world.now)))) == (
        "BACKFILL_NOT_FOUND"
    )


async def test_usage_must_name_its_subscription_where_items_demand_it(
    world: World, client: Client
) -> None:
    one, two = await world.served(), await world.served()
    await world.customer("DL")
    stub = UsageServiceStub(client.channel)
    for sub in (one, two):
        demand = usage.RequireSubscriptionRequest(subscription_id=world.subscription_text(sub))
        answer = await stub.RequireSubscription(demand, metadata=client.metadata)
        assert answer.items == 1
    await world.execute("UPDATE subscriptions SET canceled_at = $1", world.now - DAY)
    now, before = stamp(world.now), stamp(world.now - 2 * DAY)
    text = world.subscription_text(two)
    recorded = await batch(
        client,
        "",
        record("unnamed", before),
        record("named", before, subscription_id=text),
        record("after", now),
        record("other", before, external_customer_id="DL"),
    )
    reasons = [result.reason for result in recorded.results]
    assert reasons == [284, 0, 0, 0]
    assert "Name the subscription" in recorded.results[0].message
    await fold_until_done(world)
    assert set(await world.buckets()) == {two.item_id}
    assert one.item_id != two.item_id


async def crossed(world: World) -> list[UsageThresholdCrossed]:
    rows = await world.rows(
        "SELECT envelope FROM billing_events WHERE subject = 'usage.threshold.crossed' ORDER BY id"
    )
    told = []
    for row in rows:
        payload = UsageThresholdCrossed()
        event_pb2.Event.FromString(row["envelope"]).data.Unpack(payload)
        told.append(payload)
    return told


async def rate(world: World) -> None:
    await fold_until_done(world)
    settings = RatingSettings(interval_s=0.0)
    await RatingWorker(world.worker, world.databases.clock, settings).step()


async def test_a_threshold_is_told_once_for_each_period_that_reaches_it(
    world: World, client: Client
) -> None:
    sub = await world.served()
    stub = ThresholdServiceStub(client.channel)
    for value in (
        {"meter_key": "minutes", "quantity": "10"},
        {"amount": Money(minor_units=150, currency_code="EUR")},
    ):
        request = thresholds.CreateThresholdRequest(external_customer_id="UA", **value)
        await stub.CreateThreshold(request, metadata=client.metadata)
    await world.record({"key": "a", "quantity": "9"})
    await rate(world)
    assert await crossed(world) == []
    await world.record({"key": "b", "quantity": "2"})
    await rate(world)
    (first,) = await crossed(world)
    assert (first.quantity, first.reached_quantity) == ("10", "11")
    assert first.subscription_id == world.subscription_text(sub)
    assert first.period.start == stamp(world.now - 10 * DAY)
    await world.record({"key": "c", "quantity": "5"})
    await rate(world)
    _, second = await crossed(world)
    assert (second.amount.minor_units, second.reached_amount.minor_units) == (150, 160)
    await world.record(
        {"key": "d", "quantity": "50"}, {"key": "e", "quantity": "10", "at": world.now - 20 * DAY}
    )
    await rate(world)
    *_, third = await crossed(world)
    assert len(await crossed(world)) == 3
    assert third.period.start == stamp(world.now - 40 * DAY)
    await rate(world)
    assert len(await crossed(world)) == 3


async def test_thresholds_are_made_changed_listed_and_deleted(world: World, client: Client) -> None:
    stub = ThresholdServiceStub(client.channel)
    request = thresholds.CreateThresholdRequest(
        external_customer_id="UA", meter_key="minutes", quantity="10", request_id="once"
    )
    one = (await stub.CreateThreshold(request, metadata=client.metadata)).threshold
    again = (await stub.CreateThreshold(request, metadata=client.metadata)).threshold
    assert again == one
    update = thresholds.UpdateThresholdRequest(
        threshold_id=one.id, update_mask=FieldMask(paths=["quantity"]), quantity="20"
    )
    changed = (await stub.UpdateThreshold(update, metadata=client.metadata)).threshold
    assert (changed.quantity, changed.customer_id) == ("20", one.customer_id)
    wrong = thresholds.UpdateThresholdRequest(
        threshold_id=one.id,
        update_mask=FieldMask(paths=["amount"]),
        amount=Money(minor_units=1, currency_code="EUR"),
    )
    assert (
        await reason_of(stub.UpdateThreshold(wrong, metadata=client.metadata)) == "INVALID_ARGUMENT"
    )
    page = await stub.ListThresholds(thresholds.ListThresholdsRequest(), metadata=client.metadata)
    assert list(page.thresholds) == [changed]
    delete = thresholds.DeleteThresholdRequest(threshold_id=one.id)
    await stub.DeleteThreshold(delete, metadata=client.metadata)
    get = thresholds.GetThresholdRequest(threshold_id=one.id)
    assert (
        await reason_of(stub.GetThreshold(get, metadata=client.metadata)) == "THRESHOLD_NOT_FOUND"
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"meter_key": "minutes", "quantity": "0"}, "INVALID_ARGUMENT"),
        ({"meter_key": "minutes", "quantity": "x"}, "INVALID_DECIMAL"),
        ({"quantity": "5"}, "INVALID_ARGUMENT"),
        ({"meter_key": "other", "quantity": "5"}, "METER_NOT_FOUND"),
        ({"amount": Money(minor_units=5, currency_code="XXX")}, "UNKNOWN_CURRENCY"),
        ({"amount": Money(minor_units=-5, currency_code="EUR")}, "INVALID_ARGUMENT"),
        (
            {"external_customer_id": "nobody", "meter_key": "minutes", "quantity": "5"},
            "CUSTOMER_NOT_FOUND",
        ),
    ],
)
async def test_a_threshold_that_could_not_be_reached_is_refused(
    client: Client, fields: dict[str, Any], reason: str
) -> None:
    request = thresholds.CreateThresholdRequest(**({"external_customer_id": "UA"} | fields))
    stub = ThresholdServiceStub(client.channel)
    call = stub.CreateThreshold(request, metadata=client.metadata)
    assert await reason_of(call) == reason


async def test_a_customer_has_a_bounded_number_of_thresholds(world: World, client: Client) -> None:
    stub = ThresholdServiceStub(client.channel)
    request = thresholds.CreateThresholdRequest(
        external_customer_id="UA", meter_key="minutes", quantity="1"
    )
    for _ in range(50):
        await stub.CreateThreshold(request, metadata=client.metadata)
    refused = stub.CreateThreshold(request, metadata=client.metadata)
    assert await reason_of(refused) == "TOO_MANY_THRESHOLDS"
