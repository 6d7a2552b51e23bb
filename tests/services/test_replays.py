"""Replay path, steps 1 and 2: a plan counts and stores nothing; a start needs its token, once, and tells of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tollway.event.v1 import event_pb2
from tollway.replay.v1 import replay_events_pb2

from billing.domain.errors import BillingError, Invalid
from billing.domain.ids import Prefix, encode
from billing.domain.replay import Effects, Mode, Safety, Target, TargetKind
from billing.runtime.ids import new_id
from billing.runtime.vault import Vault
from billing.services import replay_token, replays
from billing.services.replay_control import ReplayNotFound
from billing.services.replay_filter import EVENT_IDS_MAX, FilterDraft, ReplayFilter, Span
from billing.services.replay_plan import PlanDraft, TargetMissing, TooLarge
from billing.services.replay_token import Confirmations, ReplayPlan, TokenInvalid
from billing.services.tenants import TenantNotFound
from billing.services.webhook_subjects import SubjectInvalid, wants
from tests.conftest import Databases
from tests.replay_world import (
    ACTOR,
    AGO,
    BUS,
    CHANGED,
    DRAFTED,
    KEY_MADE,
    REPORTED,
    SUBSCRIBED,
    ReplayWorld,
    in_turn,
    make_world,
)

OLD = timedelta(seconds=55)
ALL_KINDS = (SUBSCRIBED, REPORTED, DRAFTED, CHANGED, KEY_MADE)


@pytest.fixture
async def world(databases: Databases) -> ReplayWorld:
    return await make_world(databases)


# --- plans


async def test_a_plan_counts_by_subject_and_consumer_and_stores_nothing(world: ReplayWorld) -> None:
    other = await make_world(world.databases)
    await other.history(DRAFTED)
    ids = await world.history(DRAFTED, DRAFTED, CHANGED, SUBSCRIBED)
    await world.execute("DELETE FROM inbox WHERE consumer = 'webhooks' AND event_id = $1", ids[0])
    before = await footprint(world)

    planned = await world.plan("invoice.*", "subscription.created")

    assert planned.found.subjects == {
        "invoice.generated": 2,
        "invoice.status.changed": 1,
        "subscription.created": 1,
    }
    assert planned.plan.matched == 4
    assert (planned.plan.first_id, planned.plan.last_id) == (ids[0], ids[-1])
    assert planned.wanted == {
        "subscription": 1,
        "usage": 0,
        "scheduler": 1,
        "invoice": 0,
        "webhooks": 4,
        "feed": 4,
    }
    processed = {"subscription": 1, "scheduler": 1, "webhooks": 3, "feed": 4}
    assert planned.found.processed == processed
    assert [text for text in planned.warnings if "webhooks has not handled 1 of the 4" in text]
    assert await footprint(world) == before


async def footprint(world: ReplayWorld) -> list[int]:
    tables = ("billing_events", "outbox", "replays", "inbox", "idempotent_requests")
    return [await world.value(f"SELECT count(*) FROM {table}") for table in tables]


async def test_each_filter_selects_what_it_says_and_nothing_else(world: ReplayWorld) -> None:
    resource, correlation_id = world.resource(), new_id(world.now)
    await world.emit(*ALL_KINDS, ago=OLD)
    await world.emit(DRAFTED, CHANGED, resource=resource)
    await world.emit(SUBSCRIBED, CHANGED, correlation_id=correlation_id)
    log = await world.fetch("SELECT * FROM billing_events ORDER BY id")
    middle = world.now - (OLD + AGO) / 2
    some = tuple(row["id"] for row in log[1:7:2])
    filters: list[tuple[Mapping[str, Any], Callable[[asyncpg.Record], bool]]] = [
        ({}, lambda row: True),
        ({"subjects": ("invoice.*",)}, lambda row: row["subject"].startswith("invoice.")),
        (
            {"subjects": ("invoice.status.*", "usage.reported")},
            lambda row: row["subject"] in ("invoice.status.changed", "usage.reported"),
        ),
        ({"subjects": ("api_key.*",)}, lambda row: row["subject"] == "api_key.created"),
        ({"subjects": ("api.*", "invoice")}, lambda row: False),
        ({"subjects": ("*", "nothing")}, lambda row: True),
        ({"resource": resource}, lambda row: row["resource"] == resource),
        ({"correlation_id": correlation_id}, lambda row: row["correlation_id"] == correlation_id),
        ({"event_ids": some}, lambda row: row["id"] in some),
        (
            {"event_ids": some, "subjects": ("invoice.*",)},
            lambda row: row["id"] in some and wants(["invoice.*"], row["subject"]),
        ),
        ({"start": middle}, lambda row: row["id"] >= Span(millis(middle), 0).first),
        ({"end": middle}, lambda row: row["id"] < Span(millis(middle), 0).first),
    ]  # fmt: skip
    for options, predicate in filters:
        expected = [row["id"] for row in log if predicate(row)]
        planned = await world.plan_as(PlanDraft(FilterDraft(world.tenant_id, **options), [BUS]))
        plan = planned.plan
        assert plan.matched == len(expected), options
        assert (plan.first_id, plan.last_id) == (
            (expected[0], expected[-1]) if expected else (None, None)
        ), options


def millis(instant: datetime) -> int:
    return int(instant.timestamp() * 1000) + 1


async def test_a_range_is_half_open_to_the_millisecond_of_the_id(world: ReplayWorld) -> None:
    (event_id,) = await world.history(DRAFTED)
    at = datetime.fromtimestamp((event_id.int >> 80) / 1000, UTC)
    step = timedelta(milliseconds=1)
    for start, end, matched in (
        (at, at + step, 1),
        (at - step, at, 0),
        (at + step, at + 2 * step, 0),
    ):
        planned = await world.plan(start=start, end=end)
        assert planned.plan.matched == matched, (start, end)
        assert (planned.plan.filter.span.start, planned.plan.filter.span.end) == (start, end)


async def test_an_open_range_is_frozen_and_an_end_ahead_is_cut(world: ReplayWorld) -> None:
    (event_id,) = await world.history(DRAFTED)
    now = world.now
    opened = (await world.plan()).plan.filter.span
    assert opened.start_ms == event_id.int >> 80
    assert now - timedelta(seconds=2) < opened.end < world.now

    ahead = await world.plan(end=now + timedelta(days=1))
    assert ahead.plan.filter.span.end < world.now
    assert "was cut to" in ahead.warnings[0]


async def test_a_range_that_may_still_grow_is_warned_of(world: ReplayWorld) -> None:
    await world.history(DRAFTED)
    assert [text for text in (await world.plan()).warnings if "still being written" in text]
    old = await world.plan(end=world.now - timedelta(minutes=3))
    assert not [text for text in old.warnings if "still being written" in text]
    assert "Nothing matches." in old.warnings


async def test_a_plan_tells_of_what_is_odd_in_it(world: ReplayWorld) -> None:
    ids = await world.emit(DRAFTED, DRAFTED, DRAFTED)
    await world.execute(
        "INSERT INTO outbox_dead_letters SELECT event_id, purpose, tenant_id, shard, priority, position, subject,"
        " resource, target, replay_id, 8, 'no', now() FROM outbox WHERE event_id = $1", ids[0])  # fmt: skip
    await world.execute("DELETE FROM outbox WHERE event_id = $1", ids[0])
    planned = await world.plan("invoice.*", "invoic.*", "custom.mine", rate_per_second=1)
    told = "\n".join(planned.warnings)
    assert "knows matches invoic.*." in told
    assert "custom.mine" not in told
    assert "1 events never reached the bus" in told
    assert "2 events are still on their first way" in told
    assert "it takes about 0:00:03" in told

    named = await world.plan(event_ids=(ids[1], new_id(world.now - AGO)))
    assert "1 of the 2 events named do not match." in named.warnings


async def test_a_plan_without_a_target_or_beyond_its_limit_is_refused(world: ReplayWorld) -> None:
    await world.history(*in_turn([DRAFTED, CHANGED], 1_001))
    with pytest.raises(TooLarge) as too_large:
        await world.plan()
    assert too_large.value.metadata == {"matched": "1001", "max_events": "1000"}
    assert "invoice.generated 501" in too_large.value.message
    assert (await world.plan(max_events=1_001)).plan.matched == 1_001

    with pytest.raises(TargetMissing):
        await world.plan_as(PlanDraft(FilterDraft(world.tenant_id), []))


async def test_a_filter_that_makes_no_sense_is_refused_by_field(world: ReplayWorld) -> None:
    now = world.now
    backwards = FilterDraft(world.tenant_id, start=now, end=now)
    ahead = FilterDraft(world.tenant_id, start=now + timedelta(hours=1))
    crowded = FilterDraft(
        world.tenant_id, event_ids=tuple(UUID(int=n) for n in range(EVENT_IDS_MAX + 1))
    )
    for draft, path in (
        (backwards, "filter.time_range"),
        (ahead, "filter.time_range"),
        (crowded, "filter.event_ids"),
    ):
        with pytest.raises(Invalid) as refused:
            await world.plan_as(PlanDraft(draft, [BUS]))
        assert [violation.path for violation in refused.value.violations] == [path]
    for pattern in ("invoice.*.changed", "Invoice", "%", "invoice*"):
        with pytest.raises(SubjectInvalid):
            await world.plan(pattern)
    with pytest.raises(TenantNotFound):
        await world.plan_as(PlanDraft(FilterDraft(new_id(now)), [BUS]))


# --- tokens

uuids = st.integers(0, 2**128 - 1).map(lambda number: UUID(int=number))
spans = st.tuples(st.integers(0, 2**47), st.integers(0, 2**47)).map(lambda ends: Span(*ends))
filters = st.builds(
    ReplayFilter,
    uuids,
    spans,
    st.lists(st.text(max_size=100), max_size=5).map(tuple),
    st.text(max_size=80),
    st.none() | uuids,
    st.lists(uuids, max_size=5).map(tuple),
)
numbers = st.integers(0, 10**6)
plans = st.builds(
    ReplayPlan,
    filters,
    st.builds(Target, st.sampled_from(TargetKind), st.text("abc_", max_size=9)),
    st.builds(Safety, st.sampled_from(Mode), st.sampled_from(Effects), st.booleans()),
    numbers,
    numbers,
    numbers,
    st.none() | uuids,
    st.none() | uuids,
    st.dictionaries(uuids, numbers, max_size=3),
)
NOW = datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=UTC)
KEY = Vault(bytes(32)).derive(replay_token.KEY_LABEL)


@given(plans, st.integers(0, 10**6), st.integers(0, 3))
def test_a_token_says_what_it_was_given_and_no_changed_one_is_read(
    plan: ReplayPlan, where: int, which: int
) -> None:
    token, given_ = Confirmations(KEY).give(plan, ACTOR, now=NOW)
    assert Confirmations(KEY).read(token) == given_
    assert given_.plan == plan
    assert given_.plan.digest == plan.digest
    assert NOW < given_.expires_at <= NOW + timedelta(minutes=15)

    place = where % (len(token) - 1)  # the last letter has bits that mean nothing
    letter = [letter for letter in "Aa0-_" if letter != token[place]][which]
    for wrong in (token[:place] + letter + token[place + 1 :], token[:-4], "", "ä", token + "AAAA"):
        with pytest.raises(TokenInvalid):
            Confirmations(KEY).read(wrong)
    with pytest.raises(TokenInvalid):
        Confirmations(Vault(bytes(31) + b"1").derive(replay_token.KEY_LABEL)).read(token)


def test_the_largest_filter_fits_into_a_token() -> None:
    events = tuple(new_id(NOW) for _ in range(EVENT_IDS_MAX))
    subjects = tuple(f"{new_id(NOW).hex}{new_id(NOW).hex}{new_id(NOW).hex}.*" for _ in range(50))
    selected = ReplayFilter(new_id(NOW), Span(0, 1), subjects, "r" * 80, new_id(NOW), events)
    plan = ReplayPlan(selected, BUS, Safety(), 10**6, 10**5, 1000, events[0], events[-1])
    token, _ = Confirmations(KEY).give(plan, ACTOR, now=NOW)
    assert len(token) <= 65_536


def test_a_derived_key_is_another_for_each_label_and_house() -> None:
    keys = {Vault(bytes([house] * 32)).derive(label) for house in (0, 1) for label in ("a", "b")}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}
    assert bytes(32) not in keys


# --- starts


async def test_a_start_commits_the_replay_and_its_event_together(
    world: ReplayWorld,
) -> None:
    await world.history(DRAFTED, CHANGED)
    planned = await world.plan("invoice.*")
    view = await world.start(world.confirm(planned))

    resource = encode(Prefix.REPLAY, view.row.id)
    assert (view.row.status, view.row.matched, view.published, view.failed) == ("running", 2, 0, 0)
    assert view.row.plan_hash == planned.plan.digest
    assert ReplayPlan.parse(view.row.plan) == planned.plan
    assert (view.row.actor, view.row.note) == (ACTOR, "because")
    (row,) = await world.fetch(
        "SELECT envelope, resource_version FROM billing_events WHERE resource = $1", resource
    )
    told = replay_events_pb2.BillingReplayStarted()
    assert event_pb2.Event.FromString(row["envelope"]).data.Unpack(told)
    assert told == replay_events_pb2.BillingReplayStarted(
        replay_id=resource, matched=2, plan_hash=planned.plan.digest.hex(), target="bus"
    )
    assert row["resource_version"] == view.row.version == 1


async def test_each_refusal_of_a_start_has_its_own_reason(world: ReplayWorld) -> None:
    await world.history(DRAFTED)
    planned = await world.plan("invoice.*")
    confirmed = world.confirm(planned)
    expired = world.confirm(planned, now=world.now - timedelta(minutes=15, seconds=1))
    await refused(world.start(confirmed, "key_other"), replays.ActorMismatch, {})
    await refused(world.start(expired), replays.TokenExpired, {})

    view = await world.start(confirmed)
    named = {"replay": encode(Prefix.REPLAY, view.row.id)}
    await refused(world.start(confirmed), replays.TokenUsed, named)
    await refused(world.start(world.confirm(planned)), replays.TargetBusy, named)

    await world.execute("UPDATE replays SET status = 'finished', finished_at = now()")
    await refused(world.start(confirmed), replays.TokenUsed, named)
    again = world.confirm(planned)
    await world.emit(DRAFTED)
    await refused(world.start(again), replays.RangeDrifted, {"planned": "1", "found": "2"})
    assert await world.value("SELECT count(*) FROM replays") == 1


async def refused(
    start: Awaitable[Any], error: type[BillingError], metadata: Mapping[str, str]
) -> None:
    with pytest.raises(error) as raised:
        await start
    assert raised.value.metadata == metadata


async def test_of_starts_at_once_one_wins_and_the_others_learn_which(world: ReplayWorld) -> None:
    await world.history(DRAFTED)
    planned = await world.plan()
    shared = world.confirm(planned)
    for confirmations, loss in (
        ([shared] * 4, replays.TokenUsed),
        ([world.confirm(planned) for _ in range(4)], replays.TargetBusy),
    ):
        await world.execute("UPDATE replays SET status = 'finished', finished_at = now()")
        outcomes = await asyncio.gather(*map(world.start, confirmations), return_exceptions=True)
        won = [outcome for outcome in outcomes if isinstance(outcome, replays.ReplayView)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, loss)]
        assert (len(won), len(lost)) == (1, 3), outcomes
        assert {one.metadata["replay"] for one in lost} == {encode(Prefix.REPLAY, won[0].row.id)}


async def test_tenants_replay_side_by_side_and_do_not_see_each_other(world: ReplayWorld) -> None:
    other = await make_world(world.databases)
    await world.history(DRAFTED)
    await other.history(DRAFTED)
    mine, theirs = await world.started(), await other.started()
    assert (await world.seen(mine.row.id)).row == mine.row
    with pytest.raises(ReplayNotFound):
        await world.seen(theirs.row.id)
    async with world.databases.api.transaction(world.tenant_id, snapshot=True) as tx:
        with pytest.raises(ReplayNotFound):  # row-level security alone
            await replays.get_replay(tx, theirs.row.id, None)
