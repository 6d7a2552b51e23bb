"""Usage path, step 3, and invoice path, step 4: one statement for each way to measure usage periods.

Invariant: a statement answers for all periods of a batch at once, one row per period and group, exactly.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Final, NamedTuple
from uuid import UUID

import queries.quantities
from queries.models import UsagePeriod
from queries.quantities import (
    ListSumsFromBucketsRow,
    ListSumsFromRecordsRow,
    ListTotalsFromRecordsRow,
)

from billing.domain.decimals import decimal_text, exact
from billing.domain.meter import Aggregation
from billing.domain.pricing import Allowance, Percentage, Price, Usage
from billing.runtime.db import Connection
from billing.services.usage_periods import nominal_of

Group = tuple[str, ...]
_SECOND: Final = timedelta(seconds=1) // timedelta(microseconds=1)


class PeriodKey(NamedTuple):
    """One usage period: a subscription item and the start of the period."""

    tenant_id: UUID
    item_id: UUID
    period_start: datetime


class Way(StrEnum):
    """What is read."""

    TOTALS = "totals"
    SUMS = "sums"
    BUCKETS = "buckets"
    UNIQUES = "uniques"
    LATEST = "latest"
    LEVELS = "levels"
    ALLOWANCES = "allowances"


class Found(NamedTuple):
    """What a group of a usage period holds."""

    key: PeriodKey
    group_key: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Asked:
    """A usage period, what its meter does with records, and the price that will rate it."""

    row: UsagePeriod
    aggregation: Aggregation
    price: Price


Summed = ListTotalsFromRecordsRow | ListSumsFromRecordsRow | ListSumsFromBucketsRow
Read = Callable[[Connection, Sequence[Asked]], Awaitable[list[Found]]]


def key_of(row: UsagePeriod) -> PeriodKey:
    """What the facts of a usage period are kept by."""
    return PeriodKey(row.tenant_id, row.item_id, row.period_start)


def group_of(group_key: str) -> Group:
    """The values of a stored group key."""
    return tuple(json.loads(group_key)) if group_key else ()


def group_key_of(group: Group) -> str:
    """The stored form of a group's values, as usage_group_key() in the database writes it."""
    return json.dumps(list(group), ensure_ascii=False) if group else ""


async def _totals(tx: Connection, asked: Sequence[Asked]) -> list[Found]:
    tenants, items, starts = _columns(asked)
    rows = await queries.quantities.list_totals_from_records(
        tx, tenant_ids=tenants, item_ids=items, period_starts=starts, meter_ids=_meters(asked)
    )
    return _summed([(row, "") for row in rows], asked)


async def _sums(tx: Connection, asked: Sequence[Asked]) -> list[Found]:
    tenants, items, starts = _columns(asked)
    rows = await queries.quantities.list_sums_from_records(
        tx, tenant_ids=tenants, item_ids=items, period_starts=starts, meter_ids=_meters(asked)
    )
    return _summed([(row, row.group_key) for row in rows], asked)


async def _buckets(tx: Connection, asked: Sequence[Asked]) -> list[Found]:
    tenants, items, starts = _columns(asked)
    rows = await queries.quantities.list_sums_from_buckets(
        tx, tenant_ids=tenants, item_ids=items, period_starts=starts
    )
    return _summed([(row, row.group_key) for row in rows], asked)


def _summed(rows: Sequence[tuple[Summed, str]], asked: Sequence[Asked]) -> list[Found]:
    aggregations = {key_of(one.row): one.aggregation for one in asked}
    found = []
    for row, group_key in rows:
        key = PeriodKey(row.tenant_id, row.item_id, row.period_start)
        answers: Mapping[Aggregation, int | Decimal] = {
            Aggregation.COUNT: row.records,
            Aggregation.SUM: row.total,
            Aggregation.MAX: row.highest,
        }
        quantity = exact(answers[aggregations[key]])
        found.append(Found(key, group_key, Usage(quantity, events_count=row.records)))
    return found


async def _uniques(tx: Connection, asked: Sequence[Asked]) -> list[Found]:
    tenants, items, starts = _columns(asked)
    rows = await queries.quantities.list_uniques_from_records(
        tx, tenant_ids=tenants, item_ids=items, period_starts=starts, meter_ids=_meters(asked)
    )
    return [
        Found(
            PeriodKey(row.tenant_id, row.item_id, row.period_start),
            row.group_key,
            Usage(exact(row.uniques), events_count=row.records),
        )
        for row in rows
    ]


async def _latest(tx: Connection, asked: Sequence[Asked]) -> list[Found]:
    tenants, items, starts = _columns(asked)
    rows = await queries.quantities.list_latest_from_records(
        tx, tenant_ids=tenants, item_ids=items, period_starts=starts, meter_ids=_meters(asked)
    )
    return [
        Found(
            PeriodKey(row.tenant_id, row.item_id, row.period_start),
            row.group_key,
            Usage(exact(row.quantity)),
        )
        for row in rows
    ]


async def _levels(tx: Connection, asked: Sequence[Asked]) -> list[Found]:
    tenants, items, starts = _columns(asked)
    rows = await queries.quantities.list_levels_from_records(
        tx, tenant_ids=tenants, item_ids=items, period_starts=starts
    )
    nominals = {key_of(one.row): nominal_of(one.row).microseconds for one in asked}
    found = []
    for row in rows:
        key = PeriodKey(row.tenant_id, row.item_id, row.period_start)
        quantity = Fraction(row.area) * _SECOND / nominals[key]
        found.append(Found(key, row.group_key, Usage(quantity, events_count=row.records)))
    return found


async def _allowances(tx: Connection, asked: Sequence[Asked]) -> list[Found]:
    tenants, items, starts = _columns(asked)
    charges = [_percentage(one.price) for one in asked]
    rows = await queries.quantities.list_allowances_from_records(
        tx,
        tenant_ids=tenants,
        item_ids=items,
        period_starts=starts,
        meter_ids=_meters(asked),
        free_events=[charge.free_events for charge in charges],
        free_amounts=[
            None if charge.free_amount is None else decimal_text(charge.free_amount)
            for charge in charges
        ],
    )
    return [
        Found(
            PeriodKey(row.tenant_id, row.item_id, row.period_start),
            row.group_key,
            Usage(
                exact(row.total),
                events_count=row.records,
                allowance=Allowance(Fraction(row.free_amount), row.free_events),
            ),
        )
        for row in rows
    ]


def _percentage(price: Price) -> Percentage:
    assert isinstance(price.charge, Percentage), "only percentages have an allowance"
    return price.charge


def _meters(asked: Sequence[Asked]) -> list[UUID]:
    return [one.row.meter_id for one in asked]


def _columns(asked: Sequence[Asked]) -> tuple[list[UUID], list[UUID], list[datetime]]:
    return (
        [one.row.tenant_id for one in asked],
        [one.row.item_id for one in asked],
        [one.row.period_start for one in asked],
    )


READS: Final[Mapping[Way, Read]] = {
    Way.TOTALS: _totals,
    Way.SUMS: _sums,
    Way.BUCKETS: _buckets,
    Way.UNIQUES: _uniques,
    Way.LATEST: _latest,
    Way.LEVELS: _levels,
    Way.ALLOWANCES: _allowances,
}
