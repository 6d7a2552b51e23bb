"""Small parts of the backbone: ids off the bus, routes by subject, and the boring loop."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tollway.event.v1 import event_pb2

from billing.domain.errors import InvalidId
from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services.consumers import WANTED
from billing.services.incoming import Handler, Incoming
from billing.services.subjects import known_subjects
from workers.loop import run_loop
from workers.router.arrivals import event_id_of
from workers.router.consumers import Consumer, Routes, house_consumers


@given(st.uuids())
def test_an_events_id_is_read_as_the_library_reads_it(event: UUID) -> None:
    assert event_id_of(encode(Prefix.EVENT, event)) == event


@given(st.text(st.sampled_from("0123456789abcdefghjkmnpqrstvwxyziloABZ_+- ٣\n"), max_size=30))
@example("7zzzzzzzzzzzzzzzzzzzzzzzzz")
@example("8zzzzzzzzzzzzzzzzzzzzzzzzz")
@example("0" * 26)
def test_what_is_no_event_id_is_refused_as_the_library_refuses_it(suffix: str) -> None:
    text = f"evt_{suffix}"
    try:
        expected = decode(Prefix.EVENT, text)
    except InvalidId:
        with pytest.raises(InvalidId):
            event_id_of(text)
    else:
        assert event_id_of(text) == expected


async def nothing(tx: Connection, events: Sequence[Incoming], now: datetime) -> Collection[UUID]:
    return ()


def test_a_subject_goes_to_those_that_want_it_in_the_order_of_the_table() -> None:
    routes = Routes(
        [
            Consumer("created", frozenset({"a.created"}), nothing),
            Consumer("every", None, nothing),
            Consumer("changed", frozenset({"a.changed"}), nothing),
        ],
        frozenset({"a.created", "a.changed", "a.removed"}),
    )
    assert (routes.of("a.created").wanted, routes.of("a.created").unknown) == (0b011, False)
    assert (routes.of("a.removed").wanted, routes.of("a.removed").unknown) == (0b010, False)
    assert (routes.of("custom.x").wanted, routes.of("custom.x").unknown) == (0b010, False)
    assert (routes.of("b.made").wanted, routes.of("b.made").unknown) == (0b010, True)
    assert routes.of("a.created", schema_version=2).unknown
    assert routes.late("b.made", 1, UUID(int=1)) is None
    assert [c.name for c in routes.late("a.changed", 1, UUID(int=1)) or ()] == ["changed"]


async def test_a_loop_repeats_after_failures_and_ends_when_it_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop, failures, done = asyncio.Event(), 0, 0

    async def step() -> int:
        nonlocal done
        done += 1
        if done == 2:
            raise OSError("the database is away")
        if done == 4:
            stop.set()
        return 1

    def count() -> None:
        nonlocal failures
        failures += 1

    async with asyncio.timeout(5):
        await run_loop(step, stop, idle_s=60, on_failure=count)

    assert (done, failures) == (4, 1)
    assert "the database is away" in caplog.text


async def test_a_hint_ends_a_pause() -> None:
    stop, wake, steps = asyncio.Event(), asyncio.Event(), asyncio.Queue[int]()

    async def step() -> int:
        steps.put_nowait(1)
        return 0

    # Twenty pauses would take hours: each is twice the one before.
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(run_loop(step, stop, idle_s=100_000, wake=wake))
        for _ in range(20):
            await steps.get()
            wake.set()
        stop.set()


async def test_a_step_that_did_something_is_followed_at_once_or_when_it_knows_of_more() -> None:
    stop, wake, steps = asyncio.Event(), asyncio.Event(), 0
    waits: list[int] = []

    async def step() -> int:
        nonlocal steps
        steps += 1
        if steps < 5:
            wake.set()
        return 1

    async def turns_until(count: int) -> None:
        turns = 0
        while steps < count:
            await asyncio.sleep(0)
            turns += 1
        waits.append(turns)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(run_loop(step, stop, idle_s=60, wake=wake, at_once=False))
        await turns_until(5)
        await asyncio.sleep(0)
        assert steps == 5  # nobody knows of more
        await turns_until(7)  # and yet it looks again soon
        stop.set()
    assert waits[0] < 5


def test_the_routers_table_has_a_handler_for_exactly_what_each_consumer_wants() -> None:
    consumers = house_consumers(invoice_grace=timedelta(hours=1))
    wanted = {c.name: None if c.subjects is None else set(c.subjects) for c in consumers}
    assert wanted == {name: None if s is None else set(s) for name, s in WANTED.items()}
    assert list(wanted) == list(WANTED)
    assert {c.name for c in consumers if c.ordered} == {"subscription", "scheduler", "invoice"}
    assert not {s for c in consumers for s in c.subjects or ()} - known_subjects()


async def test_a_consumer_with_several_subjects_hands_each_handler_its_own() -> None:
    given: list[tuple[str, list[str]]] = []

    def handler(name: str, waits: bool) -> Handler:
        async def handle(tx: Connection, events: Sequence[Incoming], now: datetime) -> set[UUID]:
            given.append((name, [event.subject for event in events]))
            return {event.event_id for event in events} if waits else set()

        return handle

    consumer = Consumer.of("c", {"a.b": handler("first", False), "a.c": handler("second", True)})
    events = [
        Incoming(UUID(int=n), UUID(int=0), subject, "r", n, 0, event_pb2.Event())
        for n, subject in enumerate(["a.c", "a.b", "a.c"])
    ]
    nobody = cast(Connection, None)
    waiting = await consumer.handle(nobody, events, datetime.now(UTC))
    assert given == [("second", ["a.c", "a.c"]), ("first", ["a.b"])]
    assert set(waiting) == {UUID(int=0), UUID(int=2)}
