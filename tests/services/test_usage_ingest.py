"""Usage path, step 1: each record once, each answered alone, one event for what was accepted."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tollway.usage.v1 import usage_events_pb2 as payloads

from billing.domain.errors import Invalid
from billing.domain.ids import Prefix, encode
from billing.services.usage_batch import BatchAnswer, Outcome
from tests.conftest import Databases
from tests.services.usage_world import World, make_world


@pytest.fixture
async def world(databases: Databases) -> World:
    return await make_world(databases)


def reason(answer: BatchAnswer, place: int = 0) -> str:
    return answer.verdicts[place].reason


def outcomes(answer: BatchAnswer) -> list[Outcome]:
    accepted = Outcome.ACCEPTED
    return [
        answer.verdicts[n].outcome if n in answer.verdicts else accepted for n in range(answer.size)
    ]


async def test_a_batch_is_recorded_and_told_by_one_event_with_counts(world: World) -> None:
    await world.customer("DL")
    answer = await world.record(
        {"key": "a", "quantity": "227.5"},
        {"key": "b", "quantity": "0"},
        {"key": "c", "customer": "DL"},
    )
    assert outcomes(answer) == [Outcome.ACCEPTED] * 3
    rows = await world.rows("SELECT * FROM usage_records ORDER BY idempotency_key")
    assert [str(row["quantity"]) for row in rows] == ["227.5", "0", "1"]
    assert {row["used_at"] for row in rows} == {world.now}
    assert {row["batch_id"] for row in rows} == {answer.batch_id}
    (event,) = await world.reported()
    payload = event.payload(payloads.UsageReported)
    assert (event.resource, event.resource_version) == (payload.batch_id, 1)
    assert payload.record_count == 3
    assert {(count.customer_id, count.record_count) for count in payload.counts} == {
        (encode(Prefix.CUSTOMER, world.customers["UA"]), 2),
        (encode(Prefix.CUSTOMER, world.customers["DL"]), 1),
    }


async def test_a_repeated_batch_counts_nothing_and_emits_nothing(world: World) -> None:
    records = ({"key": "a", "quantity": "1.50"}, {"key": "b", "properties": {"x": "1", "y": "2"}})
    await world.record(*records)
    again = await world.record(
        {"key": "b", "properties": {"y": "2", "x": "1"}}, {"key": "a", "quantity": "01.5"}
    )
    assert outcomes(again) == [Outcome.DUPLICATE] * 2
    assert again.batch_id is None
    assert len(await world.reported()) == 1
    assert await world.value("SELECT count(*) FROM usage_records") == 2


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": "2"},
        {"meter": "calls"},
        {"customer": "DL"},
        {"at": -timedelta(microseconds=1)},
        {"properties": {"x": "1"}},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_the_same_key_with_another_content_is_a_conflict(
    world: World, change: dict[str, Any]
) -> None:
    await world.meter("calls", "count")
    await world.customer("DL")
    await world.record({"key": "a"})
    if "at" in change:
        change = {"at": world.now + change["at"]}
    answer = await world.record({"key": "a", **change}, {"key": "b"})
    assert outcomes(answer) == [Outcome.CONFLICT, Outcome.ACCEPTED]
    assert reason(answer) == "IDEMPOTENCY_KEY_REUSED"
    assert await world.value("SELECT count(*) FROM usage_records") == 2


async def test_of_several_records_with_one_key_in_a_batch_the_first_sound_one_counts(
    world: World,
) -> None:
    answer = await world.record(
        {"key": "a", "quantity": "NaN"},
        {"key": "a", "quantity": "2"},
        {"key": "a", "quantity": "2.0"},
        {"key": "a", "quantity": "3"},
    )
    assert outcomes(answer) == [
        Outcome.REJECTED,
        Outcome.ACCEPTED,
        Outcome.DUPLICATE,
        Outcome.CONFLICT,
    ]
    (event,) = await world.reported()
    assert event.payload(payloads.UsageReported).record_count == 1


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("IDEMPOTENCY_KEY_INVALID", {"key": ""}),
    ("IDEMPOTENCY_KEY_INVALID", {"key": "x" * 201}),
    ("IDEMPOTENCY_KEY_INVALID", {"key": "a\0b"}),
    ("METER_NOT_FOUND", {"meter": "other"}),
    ("METER_NOT_FOUND", {"meter": "\0"}),
    ("METER_ARCHIVED", {"meter": "old"}),
    ("CUSTOMER_NOT_FOUND", {"customer": "XX"}),
    ("CUSTOMER_NOT_FOUND", {"customer": "\0"}),
    ("CUSTOMER_NOT_FOUND", {"customer": ""}),
    ("CUSTOMER_NOT_FOUND", {"customer_id": "cus_01h455vb4pex5vsknk084sn02q"}),
    ("INVALID_ID", {"customer_id": "cus_1"}),
    ("INVALID_ID", {"subscription": "inv_01h455vb4pex5vsknk084sn02q"}),
    ("SUBSCRIPTION_NOT_FOUND", {"subscription": "sub_01h455vb4pex5vsknk084sn02q"}),
    ("QUANTITY_INVALID", {"quantity": ""}),
    ("QUANTITY_INVALID", {"quantity": "NaN"}),
    ("QUANTITY_INVALID", {"quantity": "Infinity"}),
    ("QUANTITY_INVALID", {"quantity": "-1"}),
    ("QUANTITY_INVALID", {"quantity": "1e3"}),
    ("QUANTITY_INVALID", {"quantity": "٣"}),
    ("QUANTITY_INVALID", {"quantity": "1.0000000000001"}),
    ("QUANTITY_INVALID", {"quantity": "9" * 31}),
    ("QUANTITY_INVALID", {"quantity": "1000000000000000"}),
    ("QUANTITY_INVALID", {"quantity": "1\n"}),
    ("TIMESTAMP_INVALID", {"at": None}),
    ("TIMESTAMP_INVALID", {"at": datetime(1969, 12, 31, tzinfo=UTC)}),
    ("TIMESTAMP_IN_FUTURE", {"at": timedelta(minutes=5, microseconds=1)}),
    ("TIMESTAMP_IN_FUTURE", {"at": datetime(9999, 1, 1, tzinfo=UTC)}),
    ("TIMESTAMP_TOO_OLD", {"at": -timedelta(days=35, microseconds=1)}),
    ("TIMESTAMP_TOO_OLD", {"at": datetime(1970, 1, 1, tzinfo=UTC)}),
    ("PROPERTIES_INVALID", {"properties": {str(n): "" for n in range(21)}}),
    ("PROPERTIES_INVALID", {"properties": {"": "x"}}),
    ("PROPERTIES_INVALID", {"properties": {"k" * 65: "x"}}),
    ("PROPERTIES_INVALID", {"properties": {"k": "x" * 257}}),
    ("PROPERTIES_INVALID", {"properties": {"k": "\0"}}),
]


async def test_a_wrong_record_is_refused_with_its_reason_and_never_fails_its_batch(
    world: World,
) -> None:
    await world.meter("old", "sum")
    await world.execute("UPDATE meters SET archived_at = now() WHERE key = 'old'")
    records: list[dict[str, Any]] = [{"key": "good-first"}]
    for n, (_, change) in enumerate(WRONG):
        at = change.get("at")
        moved = {"at": world.now + at} if isinstance(at, timedelta) else {}
        records.append({"key": f"wrong-{n}", **change, **moved})
    records.append({"key": "good-last"})

    answer = await world.record(*records)

    found = [(reason(answer, n), WRONG[n - 1][1]) for n in range(1, len(WRONG) + 1)]
    assert found == WRONG
    assert all(answer.verdicts[n].message for n in answer.verdicts)
    assert answer.count(Outcome.ACCEPTED) == 2
    assert answer.count(Outcome.REJECTED) == len(WRONG)
    assert await world.value("SELECT count(*) FROM usage_records") == 2


async def test_a_batch_of_wrong_records_only_leaves_nothing_behind(world: World) -> None:
    answer = await world.record({"key": ""})
    assert answer.batch_id is None
    assert await world.value("SELECT count(*) FROM billing_events") == 0


async def test_the_limits_of_time_are_those_of_the_tenants_clock(world: World) -> None:
    then = datetime(2013, 2, 1, tzinfo=UTC)
    await world.execute(
        "INSERT INTO test_clocks (tenant_id, business_time, target_time, status, created_at)"
        " VALUES ($1, $2, $2, 'ready', now())",
        world.tenant_id,
        then,
    )
    answer = await world.record(
        {"key": "edge", "at": then + timedelta(minutes=5)},
        {"key": "oldest", "at": then - timedelta(days=35)},
        {"key": "now", "at": world.now},
    )
    assert outcomes(answer) == [Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.REJECTED]
    (event,) = await world.reported()
    assert event.envelope.occurred_at.ToDatetime(UTC) == then
    assert await world.value("SELECT max(accepted_at) FROM usage_records") == then


async def test_old_usage_is_taken_as_a_backfill(world: World) -> None:
    old = {"key": "a", "at": datetime(1970, 1, 1, tzinfo=UTC)}
    assert reason(await world.record(old)) == "TIMESTAMP_TOO_OLD"
    assert outcomes(await world.record(old, allow_backfill=True)) == [Outcome.ACCEPTED]


async def test_a_count_meter_needs_no_quantity(world: World) -> None:
    await world.meter("calls", "count")
    await world.record({"key": "a", "meter": "calls", "quantity": ""})
    assert await world.value("SELECT quantity FROM usage_records") == 1


async def test_a_customer_is_named_by_id_or_by_external_id(world: World) -> None:
    text = encode(Prefix.CUSTOMER, world.customers["UA"])
    await world.record({"key": "a", "customer_id": text}, {"key": "b", "customer": "UA"})
    owners = await world.rows("SELECT DISTINCT customer_id FROM usage_records")
    assert [row["customer_id"] for row in owners] == [world.customers["UA"]]


async def test_a_subscription_of_another_customer_is_not_found(world: World) -> None:
    await world.customer("DL")
    sub = await world.served("DL")
    text = world.subscription_text(sub)
    answer = await world.record(
        {"key": "a", "subscription": text}, {"key": "b", "customer": "DL", "subscription": text}
    )
    assert outcomes(answer) == [Outcome.REJECTED, Outcome.ACCEPTED]
    assert reason(answer) == "SUBSCRIPTION_NOT_FOUND"


async def test_tenants_do_not_see_each_others_customers_meters_and_keys(
    databases: Databases, world: World
) -> None:
    other = await make_world(databases)
    await other.customer("DL")
    await world.record({"key": "a"})
    answer = await other.record({"key": "a", "quantity": "7"}, {"key": "b", "customer": "DL"})
    assert outcomes(answer) == [Outcome.ACCEPTED] * 2
    foreign = encode(Prefix.CUSTOMER, other.customers["UA"])
    answer = await world.record(
        {"key": "c", "customer": "DL"}, {"key": "d", "customer_id": foreign}
    )
    assert [reason(answer, 0), reason(answer, 1)] == ["CUSTOMER_NOT_FOUND"] * 2


async def test_a_meter_is_refused_from_the_moment_it_is_archived(world: World) -> None:
    await world.record({"key": "a"})
    await world.execute("UPDATE meters SET archived_at = now() WHERE key = 'minutes'")
    assert reason(await world.record({"key": "b"})) == "METER_ARCHIVED"


async def test_a_batch_has_one_to_a_thousand_records(world: World) -> None:
    with pytest.raises(Invalid, match="1 to 1000"):
        await world.record()
    with pytest.raises(Invalid, match="1 to 1000"):
        await world.record(*({"key": str(n)} for n in range(1001)))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3)), min_size=1, max_size=20),
        min_size=2,
        max_size=6,
    )
)
async def test_racing_batches_record_each_key_once_and_account_for_every_record(
    world: World, batches: list[list[tuple[int, int]]]
) -> None:
    """However keys repeat within and across concurrent batches, one record per key is accepted, equal ones are
    duplicates and different ones conflicts, and the events count exactly what was accepted."""
    await world.execute("DELETE FROM usage_records WHERE true")
    before = len(await world.reported())
    sent = [[{"key": f"k{k}", "quantity": str(q)} for k, q in batch] for batch in batches]

    answers = await asyncio.gather(*(world.record(*batch) for batch in sent))

    rows = await world.rows("SELECT idempotency_key AS key, quantity FROM usage_records")
    stored = {row["key"]: row["quantity"] for row in rows}
    accepted = sum(answer.count(Outcome.ACCEPTED) for answer in answers)
    assert accepted == len(stored) == len({record["key"] for batch in sent for record in batch})
    for batch, answer in zip(sent, answers, strict=True):
        for record, outcome in zip(batch, outcomes(answer), strict=True):
            same = stored[record["key"]] == int(record["quantity"])
            assert same == (outcome in (Outcome.ACCEPTED, Outcome.DUPLICATE))
    told = [event.payload(payloads.UsageReported) for event in (await world.reported())[before:]]
    assert sum(payload.record_count for payload in told) == accepted
    assert all(payload.record_count for payload in told)
