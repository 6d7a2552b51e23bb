"""Usage path, beside it: how much was used, by hour, day, month or usage period of a zone's calendar, and by group.

Invariant: a summary counts what an invoice counts: effective records that pass their meter's filters. From the hour
buckets where these can tell it exactly, else from the records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID

import queries.usage_lists
from queries.usage_lists import SummarizeUsageBucketsRow, SummarizeUsageRow

from billing.domain.errors import Invalid
from billing.domain.period import time_zone
from billing.runtime.db import Connection
from billing.services.catalog import get_meter
from billing.services.customers import get_customer
from billing.services.rows import Meter

ROWS_MAX: Final = 5_000
_HOUR: Final = timedelta(hours=1)
_FROM_BUCKETS: Final = frozenset({"count", "sum", "max"})


class Grain(StrEnum):
    """What a row of a summary stands for; the names are those of the proto's UsageGrain."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    PERIOD = "period"


# So that nobody asks for more rows than there may be.
_SPAN_MAX: Final = {
    Grain.HOUR: timedelta(days=32),
    Grain.DAY: timedelta(days=400),
    Grain.MONTH: timedelta(days=3_700),
    Grain.PERIOD: timedelta(days=3_700),
}


@dataclass(frozen=True, slots=True)
class SummaryRequest:
    """Of which usage: a customer's of one meter in [since, until); an empty zone takes the customer's."""

    meter_key: str
    customer_id: UUID | None
    external_customer_id: str
    subscription_id: UUID | None
    since: datetime
    until: datetime
    grain: Grain
    zone: str = ""


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """What was used in one stretch by one group; `quantity` is by the meter's aggregation."""

    start: datetime
    end: datetime
    group: Mapping[str, str]
    records: int
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class Summary:
    """The rows in order of time, and whether there are more than ROWS_MAX."""

    zone: str
    rows: Sequence[SummaryRow]
    truncated: bool


async def summarize_usage(tx: Connection, tenant_id: UUID, request: SummaryRequest) -> Summary:
    """How much of the meter the customer used; stretches without usage have no row, at most 5,000 rows.

    Hours, days and months are those of the zone. Of a weighted sum, a row has the change of the level. Raises
    MeterNotFound, CustomerNotFound, InvalidTimeZone, Invalid.
    """
    if not request.since < request.until <= request.since + _SPAN_MAX[request.grain]:
        days = _SPAN_MAX[request.grain].days
        raise Invalid.field("end_time", f"must be after start_time, and at most {days} days.")
    meter = await get_meter(tx, tenant_id, key=request.meter_key)
    customer = await get_customer(
        tx, tenant_id, customer_id=request.customer_id, external_id=request.external_customer_id
    )
    zone = request.zone or customer.time_zone
    place = _Place(tenant_id, meter.id, customer.id, zone)
    if meter.aggregation in _FROM_BUCKETS and _in_whole_hours(request, zone):
        rows = await _from_buckets(tx, place, request, meter)
    else:
        rows = await _from_records(tx, place, request, meter)
    return Summary(zone, rows[:ROWS_MAX], len(rows) > ROWS_MAX)


@dataclass(frozen=True, slots=True)
class _Place:
    tenant_id: UUID
    meter_id: UUID
    customer_id: UUID
    zone: str


def _in_whole_hours(request: SummaryRequest, zone: str) -> bool:
    """Whether every bound of the answer is one of a UTC hour, at which buckets begin."""
    since, until = request.since, request.until
    if any(bound.minute or bound.second or bound.microsecond for bound in (since, until)):
        return False
    if request.grain in (Grain.HOUR, Grain.PERIOD):
        return request.grain is Grain.PERIOD or _offsets_are_whole([since, until], zone)
    # Zones change their offsets at most every few months.
    months = (until - since) // timedelta(days=28)
    return _offsets_are_whole(
        [since + timedelta(days=28) * n for n in range(months + 1)] + [until], zone
    )


def _offsets_are_whole(instants: Sequence[datetime], zone: str) -> bool:
    known = time_zone(zone)
    offsets = (instant.astimezone(known).utcoffset() or timedelta() for instant in instants)
    return all(offset % _HOUR == timedelta() for offset in offsets)


async def _from_buckets(
    tx: Connection, place: _Place, request: SummaryRequest, meter: Meter
) -> list[SummaryRow]:
    rows = await queries.usage_lists.summarize_usage_buckets(
        tx,
        tenant_id=place.tenant_id,
        meter_id=place.meter_id,
        customer_id=place.customer_id,
        subscription_id=request.subscription_id,
        since=request.since,
        until=request.until,
        grain=request.grain,
        zone=place.zone,
        rows_max=ROWS_MAX + 1,
    )
    return [
        SummaryRow(
            row.stretch_start,
            row.stretch_end,
            _group(meter, row.group_key),
            row.records,
            _bucketed(row, meter.aggregation),
        )
        for row in rows
    ]


async def _from_records(
    tx: Connection, place: _Place, request: SummaryRequest, meter: Meter
) -> list[SummaryRow]:
    rows = await queries.usage_lists.summarize_usage(
        tx,
        tenant_id=place.tenant_id,
        meter_id=place.meter_id,
        customer_id=place.customer_id,
        subscription_id=request.subscription_id,
        since=request.since,
        until=request.until,
        grain=request.grain,
        zone=place.zone,
        rows_max=ROWS_MAX + 1,
    )
    return [
        SummaryRow(
            row.stretch_start,
            row.stretch_end,
            _group(meter, row.group_key),
            row.records,
            _quantity(row, meter.aggregation),
        )
        for row in rows
    ]


def _bucketed(row: SummarizeUsageBucketsRow, aggregation: str) -> Decimal:
    match aggregation:
        case "count":
            return Decimal(row.records)
        case "max":
            return row.highest
        case _:
            return row.total


def _quantity(row: SummarizeUsageRow, aggregation: str) -> Decimal:
    match aggregation:
        case "count":
            return Decimal(row.records)
        case "max":
            return row.highest
        case "unique":
            return Decimal(row.uniques)
        case "latest":
            return row.latest
        case _:
            return row.total


def _group(meter: Meter, group_key: str) -> Mapping[str, str]:
    """The group's values by property."""
    return dict(zip(meter.group_by, json.loads(group_key), strict=True)) if group_key else {}
