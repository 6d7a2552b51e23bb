"""Usage path, step 3: what a rating has brought past a threshold is told, once per period.

Invariant: usage.threshold.crossed is committed with its crossing, and a threshold has one crossing for a subscription
and billing period, by a unique key, however often and by whomever it is rated and whenever the period ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from uuid import UUID

import queries.usage_thresholds
from queries.usage_thresholds import ListReachedThresholdsRow
from tollway.type.v1 import money_pb2
from tollway.usage.v1 import usage_events_pb2 as payloads

from billing.domain.decimals import decimal_text
from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause

Rated = tuple[UUID, UUID]


async def tell_crossings(
    tx: Connection, rated: Mapping[Rated, Cause], times: Mapping[UUID, datetime], *, now: datetime
) -> int:
    """Emits usage.threshold.crossed for thresholds that the rated subscriptions reached first now; returns how many.

    `rated` is (tenant, subscription) -> what its events are caused by, `times` the tenants' business times. For callers
    that hold the subscriptions and have written their charges.
    """
    reached = await queries.usage_thresholds.list_reached_thresholds(
        tx,
        tenant_ids=[tenant_id for tenant_id, _ in rated],
        subscription_ids=[subscription_id for _, subscription_id in rated],
        todays=[times[tenant_id] for tenant_id, _ in rated],
    )
    if not reached:
        return 0
    fresh = await _insert(tx, {new_id(now): row for row in reached}, times)
    told = [
        _crossed(identity, row, rated[row.tenant_id, row.subscription_id], times[row.tenant_id])
        for identity, row in fresh.items()
    ]
    await events.emit(tx, told, now=now)
    return len(told)


async def _insert(
    tx: Connection,
    reached: Mapping[UUID, ListReachedThresholdsRow],
    times: Mapping[UUID, datetime],
) -> dict[UUID, ListReachedThresholdsRow]:
    """The crossings that nobody has told."""
    rows: Sequence[ListReachedThresholdsRow] = list(reached.values())
    ids = await queries.usage_thresholds.insert_crossings(
        tx,
        tenant_ids=[row.tenant_id for row in rows],
        threshold_ids=[row.threshold_id for row in rows],
        subscription_ids=[row.subscription_id for row in rows],
        period_starts=[row.period_start for row in rows],
        period_ends=[row.period_end for row in rows],
        ids=list(reached),
        reached=[
            decimal_text(Fraction(row.reached_quantity))
            if row.amount is None
            else str(row.reached_amount)
            for row in rows
        ],
        crossed_ats=[times[row.tenant_id] for row in rows],
    )
    return {identity: row for identity, row in reached.items() if identity in set(ids)}


def _crossed(
    identity: UUID, row: ListReachedThresholdsRow, cause: Cause, at: datetime
) -> events.NewEvent:
    resource = encode(Prefix.THRESHOLD_CROSSING, identity)
    payload = payloads.UsageThresholdCrossed(
        crossing_id=resource,
        threshold_id=encode(Prefix.THRESHOLD, row.threshold_id),
        customer_id=encode(Prefix.CUSTOMER, row.customer_id),
        subscription_id=encode(Prefix.SUBSCRIPTION, row.subscription_id),
        meter_id=encode(Prefix.METER, row.meter_id) if row.meter_id else "",
        quantity=decimal_text(Fraction(row.quantity)) if row.quantity is not None else "",
        reached_quantity=decimal_text(Fraction(row.reached_quantity))
        if row.quantity is not None
        else "",
    )
    payload.period.start.FromDatetime(row.period_start)
    payload.period.end.FromDatetime(row.period_end)
    if row.amount is not None:
        payload.amount.CopyFrom(_money(row.amount, row.currency))
        payload.reached_amount.CopyFrom(_money(row.reached_amount, row.currency))
    return events.NewEvent(row.tenant_id, resource, 1, payload, at, cause)


def _money(minor_units: int, currency: str) -> money_pb2.Money:
    return money_pb2.Money(minor_units=minor_units, currency_code=currency)
