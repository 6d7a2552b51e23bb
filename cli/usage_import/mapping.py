"""Usage import: from a row to a record.

Invariant: nothing is guessed: a row whose columns do not give a record is refused with the column's name. What only the
server can know (is there such a customer? is this a quantity?) is left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final

from tollway.usage.v1 import usage_service_pb2 as pb

from billing.domain import period
from cli.usage_import import options
from cli.usage_import.options import JOINT, ImportOptions

Values = Mapping[str, str]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PROTO_NAMES: Final = {
    "meter": "meter_key",
    "customer": "external_customer_id",
    "subscription": "subscription_id",
}


class Unmapped(Exception):
    """The row gives no record; `reason` is an ErrorReason."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason, self.message = reason, message
        super().__init__(message)


class RowMapper:
    """Makes records by the options."""

    def __init__(self, chosen: ImportOptions) -> None:
        self._options = chosen
        self._instant = _parser(chosen)
        self._columns = {name: spec.split(JOINT) for name, spec in chosen.columns.items()}
        self._timestamp = self._columns.pop("timestamp", None)
        constants = dict(chosen.constants)
        self._constant_instant = constants.pop("timestamp", "")
        self._template = pb.UsageRecord()
        for name, value in constants.items():
            setattr(self._template, _PROTO_NAMES.get(name, name), value)

    def wants(self, values: Values) -> bool:
        """Whether the filters let the row pass."""
        return all(values.get(column) == text for column, text in self._options.where.items())

    def record(self, values: Values) -> pb.UsageRecord:
        """The record of a row. Raises Unmapped."""
        record = pb.UsageRecord()
        record.CopyFrom(self._template)
        for name, columns in self._columns.items():
            setattr(record, _PROTO_NAMES.get(name, name), _joined(name, columns, values))
        text = self._constant_instant
        if self._timestamp is not None:
            text = _joined("timestamp", self._timestamp, values)
        record.timestamp.FromDatetime(self._instant(text))
        for name, column in self._options.properties.items():
            if (value := values.get(column)) is not None:
                record.properties[name] = value
        return record


def _joined(name: str, columns: list[str], values: Values) -> str:
    parts = []
    for column in columns:
        part = values.get(column)
        if part is None:
            raise Unmapped("INVALID_ARGUMENT", f"The row has no column {column!r} for {name}.")
        # Keys made of empty parts would be alike, and all rows but the first taken for duplicates.
        if not part and len(columns) > 1:
            raise Unmapped(
                "IDEMPOTENCY_KEY_INVALID" if name == "idempotency_key" else "INVALID_ARGUMENT",
                f"The column {column!r}, a part of {name}, is empty.",
            )
        parts.append(part)
    return JOINT.join(parts)


def _parser(chosen: ImportOptions) -> Callable[[str], datetime]:
    zone = period.time_zone(chosen.time_zone)

    def parse(text: str) -> datetime:
        try:
            instant = _read(text, chosen.timestamp_format)
            return (instant if instant.tzinfo else instant.replace(tzinfo=zone)).astimezone(UTC)
        except (ValueError, OverflowError, InvalidOperation) as error:
            shown = chosen.timestamp_format
            raise Unmapped(
                "TIMESTAMP_INVALID", f"{text[:40]!r} is no timestamp of the format {shown!r}."
            ) from error

    return parse


def _read(text: str, shape: str) -> datetime:
    match shape:
        case options.ISO:
            return datetime.fromisoformat(text)
        case options.UNIX | options.UNIX_MS:
            scale = 1_000_000 if shape == options.UNIX else 1_000
            return _EPOCH + timedelta(microseconds=int(Decimal(text) * scale))
        case _:
            return datetime.strptime(text, shape)  # noqa: DTZ007 - the caller gives it the zone of the options
