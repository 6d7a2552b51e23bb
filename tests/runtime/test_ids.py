"""New ids: UUIDv7s that sort as they were made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from billing.runtime.ids import STEP_BACK_MAX_MS, IdMaker

NOW = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)


def millisecond(identity: UUID) -> int:
    return identity.int >> 80


def test_an_id_is_a_version_7_uuid_of_its_time() -> None:
    made = IdMaker().new_id(NOW)
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert millisecond(made) == int(NOW.timestamp() * 1000)


def test_ids_of_one_instant_sort_as_they_were_made_and_differ() -> None:
    maker = IdMaker()
    made = [maker.new_id(NOW) for _ in range(5_000)]
    assert made == sorted(set(made))


@given(st.lists(st.integers(-STEP_BACK_MAX_MS // 20, 5), max_size=20))
def test_a_clock_that_steps_back_a_little_does_not_bring_ids_back(steps: list[int]) -> None:
    maker, at, made = IdMaker(), NOW, []
    for step in steps:
        at += timedelta(milliseconds=step)
        made.append(maker.new_id(at))
    assert made == sorted(set(made))


def test_one_wrong_time_does_not_drag_later_ids_along() -> None:
    maker = IdMaker()
    maker.new_id(NOW + timedelta(hours=1))
    assert millisecond(maker.new_id(NOW)) == int(NOW.timestamp() * 1000)
