"""Values on the wire are those within, both ways."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from billing.domain.errors import Invalid
from server.convert import from_timestamp, to_timestamp

INSTANTS = st.datetimes(
    datetime(1970, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(8999, 12, 31),  # noqa: DTZ001 - the same
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5, minutes=-30))]),
)


@given(INSTANTS)
def test_an_instant_survives_the_wire(instant: datetime) -> None:
    stamp, expected = to_timestamp(instant), Timestamp()
    expected.FromDatetime(instant)
    assert stamp == expected
    assert from_timestamp(stamp, path="at") == instant


@pytest.mark.parametrize("seconds", [-1, 2**62, -(2**62), 221_845_392_000])
def test_an_instant_outside_the_calendar_names_its_field(seconds: int) -> None:
    with pytest.raises(Invalid) as raised:
        from_timestamp(Timestamp(seconds=seconds), path="expire_time")
    assert [violation.path for violation in raised.value.violations] == ["expire_time"]
