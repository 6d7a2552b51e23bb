"""Publish path, step 2: whose turn it is, and that what is live never stands behind replays."""

from __future__ import annotations

import itertools

import pytest

from billing.services.leases import Lease
from billing.services.outbox import Priority
from workers.dispatcher.queues import MIXED_S, Queue, Queues

NOW = 1_000.0


@pytest.fixture
def queues() -> Queues:
    """The queues of two shards, with a deep replay in each."""
    queues = Queues()
    queues.own([Lease(0, 1), Lease(1, 1)])
    for queue in replays(queues):
        queue.deep = True
    return queues


def replays(queues: Queues) -> list[Queue]:
    return [queue for queue in queues.all() if queue.is_replay]


def serve(turn: list[Queue], at: float) -> None:
    for queue in turn:
        queue.busy, queue.served_at = True, at


def test_one_lane_is_always_free_for_what_is_live(queues: Queues) -> None:
    for priority in Priority:
        queues.note_read(priority, NOW)
    first = queues.next_turn(NOW)
    serve(first, NOW)
    second = queues.next_turn(NOW)
    serve(second, NOW)

    assert {queue.is_replay for queue in first} != {queue.is_replay for queue in second}
    assert queues.next_turn(NOW) == []
    for queue in queues.all():
        if not queue.is_replay:
            queue.busy = False
    turn = queues.next_turn(NOW)
    assert turn
    assert not any(queue.is_replay for queue in turn)


@pytest.mark.parametrize("there", list(Priority))
def test_where_only_one_kind_is_there_it_has_every_lane(queues: Queues, there: Priority) -> None:
    queues.note_read(there, NOW)
    queues.note_read(Priority(1 - there), NOW - MIXED_S - 0.1)
    turns = []
    for _ in range(3):
        turns.append(queues.next_turn(NOW))
        serve(turns[-1], NOW)

    assert sorted(len(turn) for turn in turns) == [
        1,
        1,
        2,
    ]  # two deep replays, and the rest together


def test_both_kinds_get_their_turns_when_there_is_one_lane(queues: Queues) -> None:
    served = []
    for step in range(6):
        for priority in Priority:
            queues.note_read(priority, NOW + step)
        turn = queues.next_turn(NOW + step)
        for queue in turn:
            queue.served_at = NOW + step
        served.append(turn[0].is_replay)

    assert True in served
    assert False in served
    assert not any(one and other for one, other in itertools.pairwise(served)), served


def test_beside_what_is_live_a_replay_rests_behind_each_turn(queues: Queues) -> None:
    for priority in Priority:
        queues.note_read(priority, NOW)
    assert queues.more_in(NOW) == 0
    queues.rest(NOW + 0.3)

    for at in (NOW, NOW + 0.1, NOW + 0.2):
        turn = queues.next_turn(at)
        assert not any(queue.is_replay for queue in turn)
        for queue in turn:
            queue.served_at = at
    assert queues.more_in(NOW + 0.1) == pytest.approx(0.2)
    assert all(queue.is_replay for queue in queues.next_turn(NOW + 0.3))
    assert queues.more_in(NOW + 0.3) == 0


def test_a_lane_is_not_called_for_what_may_not_have_its_turn(queues: Queues) -> None:
    one, other = replays(queues)
    one.retry_at, other.retry_at = NOW + 0.5, NOW + 0.7
    assert queues.more_in(NOW) == pytest.approx(0.5)
    one.busy = True
    assert queues.more_in(NOW) == pytest.approx(0.7)
    other.deep = False
    assert queues.more_in(NOW) is None


def test_a_lease_of_another_term_begins_with_new_queues(queues: Queues) -> None:
    before = queues.all()
    queues.own([Lease(0, 2), Lease(1, 1)])

    assert [queue in before for queue in queues.all()].count(True) == 2
    assert {(queue.lease.shard, queue.priority) for queue in queues.all()} == {
        (shard, priority) for shard in (0, 1) for priority in Priority
    }


def test_of_those_served_together_the_one_that_is_known_to_have_more_goes_first(
    queues: Queues,
) -> None:
    queues.note_read(Priority.REPLAY, NOW)
    one, other = replays(queues)
    other.deep = False
    for queue in queues.all():
        queue.served_at = NOW
    assert queues.next_turn(NOW) == [one]
