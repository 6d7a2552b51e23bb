"""The rim, step 4: the conversions that every servicer shares. What belongs to one service stands in its module."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from tollway.type.v1 import money_pb2, time_range_pb2

from billing.domain.errors import Invalid
from billing.domain.ids import Prefix, decode

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_S: Final = 24 * 60 * 60
_MICROSECOND_NS: Final = 1000
_YEAR_MIN: Final = _EPOCH
_YEAR_MAX: Final = datetime(9000, 1, 1, tzinfo=UTC)


def to_timestamp(instant: datetime | None) -> Timestamp | None:
    """An instant for the wire; None stays unset."""
    if instant is None:
        return None
    since = instant - _EPOCH  # what FromDatetime does, in a tenth of its time
    return Timestamp(
        seconds=since.days * _DAY_S + since.seconds, nanos=since.microseconds * _MICROSECOND_NS
    )


def from_timestamp(stamp: Timestamp, *, path: str) -> datetime:
    """An instant from the wire, to the microsecond. Raises Invalid outside the years 1970 to 8999."""
    try:
        instant = stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        instant = None
    if instant is None or not _YEAR_MIN <= instant < _YEAR_MAX:
        raise Invalid.field(path, "must be an instant between 1970 and 8999")
    return instant


def to_range(start: datetime | None, end: datetime | None) -> time_range_pb2.TimeRange | None:
    """A half-open range for the wire; None when there is none."""
    if start is None or end is None:
        return None
    return time_range_pb2.TimeRange(start=to_timestamp(start), end=to_timestamp(end))


def optional_id(prefix: Prefix, text: str, *, path: str) -> UUID | None:
    """An id from the wire; None for an empty text. Raises InvalidId."""
    return decode(prefix, text, path=path) if text else None


def to_money(minor_units: int, currency: str) -> money_pb2.Money:
    """An amount for the wire."""
    return money_pb2.Money(minor_units=minor_units, currency_code=currency)


def to_decimal(value: Decimal) -> str:
    """A decimal for the wire: plain digits, without trailing zeros after the point."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def optional_timestamp(request: Message, field: str) -> datetime | None:
    """An instant of a request, to the microsecond; None when it is unset. Raises Invalid."""
    return from_timestamp(getattr(request, field), path=field) if request.HasField(field) else None
