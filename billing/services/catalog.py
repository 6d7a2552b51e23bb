"""Usage path, before step 1: meters, plans and prices.

Invariant: a price is written once; its numbers were checked by the rules that will compute with them, so whatever
stands in the catalog can be rated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import queries.catalog
from google.protobuf.message import Message
from queries.models import Meter, Plan, Price
from tollway.catalog.v1 import catalog_events_pb2 as payloads
from tollway.catalog.v1 import catalog_service_pb2 as pb

from billing.domain import pricing
from billing.domain.currency import exponent_of
from billing.domain.errors import AlreadyExists, CurrencyMismatch, Invalid, NotFound, Precondition
from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.business_time import business_time


class MeterNotFound(NotFound):
    """There is no such meter in this tenant; create it with CreateMeter."""

    reason = "METER_NOT_FOUND"


class MeterArchived(Precondition):
    """The meter is archived and takes no new prices or usage."""

    reason = "METER_ARCHIVED"


class PlanNotFound(NotFound):
    """There is no such plan in this tenant; create it with CreatePlan."""

    reason = "PLAN_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class NewMeter:
    """A meter to make; an empty display name takes the key."""

    key: str
    display_name: str
    aggregation: str


@dataclass(frozen=True, slots=True)
class NewPlan:
    """A plan to make; an empty display name takes the key."""

    key: str
    display_name: str
    currency: str
    interval: str


@dataclass(frozen=True, slots=True)
class NewPrice:
    """A price to make: `model` and `config` as billing.domain.pricing reads them.

    An empty meter key makes a price by licensed quantity; an empty currency takes the plan's; no timing takes the
    default.
    """

    display_name: str
    meter_key: str
    currency: str
    model: str
    config: Mapping[str, object]
    billing_timing: pricing.BillingTiming | None


async def create_meter(
    tx: Connection, tenant_id: UUID, draft: NewMeter, cause: Cause, *, now: datetime
) -> Meter:
    """A new meter; emits meter.created. Raises AlreadyExists."""
    at = await business_time(tx, tenant_id, now)
    meter = await queries.catalog.insert_meter(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        key=draft.key,
        display_name=draft.display_name or draft.key,
        aggregation=draft.aggregation,
        now=at,
    )
    if meter is None:
        raise _taken("meter", draft.key)
    resource = encode(Prefix.METER, meter.id)
    aggregation = pb.Aggregation.Value(f"AGGREGATION_{meter.aggregation.upper()}")
    payload = payloads.MeterCreated(meter_id=resource, key=meter.key, aggregation=aggregation)
    await _emit(tx, tenant_id, resource, payload, (cause, at, now))
    return meter


async def get_meter(
    tx: Connection, tenant_id: UUID, *, meter_id: UUID | None = None, key: str = ""
) -> Meter:
    """The meter by id, or else by key. Raises MeterNotFound."""
    if meter_id is not None:
        meter = await queries.catalog.get_meter(tx, tenant_id=tenant_id, id=meter_id)
    else:
        meter = await queries.catalog.get_meter_by_key(tx, tenant_id=tenant_id, key=key)
    if meter is None:
        raise MeterNotFound(metadata={"meter": encode(Prefix.METER, meter_id) if meter_id else key})
    return meter


async def create_plan(
    tx: Connection, tenant_id: UUID, draft: NewPlan, cause: Cause, *, now: datetime
) -> Plan:
    """A new plan without prices; emits plan.created. Raises AlreadyExists or UnknownCurrency."""
    exponent_of(draft.currency)
    at = await business_time(tx, tenant_id, now)
    plan = await queries.catalog.insert_plan(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        key=draft.key,
        display_name=draft.display_name or draft.key,
        currency=draft.currency,
        billing_interval=draft.interval,
        now=at,
    )
    if plan is None:
        raise _taken("plan", draft.key)
    resource = encode(Prefix.PLAN, plan.id)
    payload = payloads.PlanCreated(
        plan_id=resource,
        key=plan.key,
        currency_code=plan.currency,
        interval=pb.Interval.Value(f"INTERVAL_{plan.billing_interval.upper()}"),
    )
    await _emit(tx, tenant_id, resource, payload, (cause, at, now))
    return plan


async def get_plan(
    tx: Connection, tenant_id: UUID, *, plan_id: UUID | None = None, key: str = ""
) -> tuple[Plan, list[Price]]:
    """The plan by id, or else by key, with its prices, oldest first. Raises PlanNotFound."""
    if plan_id is not None:
        plan = await queries.catalog.get_plan(tx, tenant_id=tenant_id, id=plan_id)
    else:
        plan = await queries.catalog.get_plan_by_key(tx, tenant_id=tenant_id, key=key)
    if plan is None:
        raise PlanNotFound(metadata={"plan": encode(Prefix.PLAN, plan_id) if plan_id else key})
    return plan, await queries.catalog.list_prices(tx, tenant_id=tenant_id, plan_id=plan.id)


async def create_price(
    tx: Connection, tenant_id: UUID, plan: Plan, draft: NewPrice, cause: Cause, *, now: datetime
) -> Price:
    """A new price of the plan; emits price.created.

    Raises MeterNotFound, MeterArchived, InvalidPrice, InvalidDecimal, CurrencyMismatch.
    """
    currency = draft.currency or plan.currency
    if currency != plan.currency:
        raise CurrencyMismatch(
            f"The plan is in {plan.currency}; a price of it cannot be in {currency}.",
            metadata={"expected": plan.currency, "actual": currency},
        )
    meter = await _meter_to_price(tx, tenant_id, draft)
    checked = pricing.parse_price(draft.model, draft.config, currency)
    timing = pricing.billing_timing(
        checked.model, metered=meter is not None, chosen=draft.billing_timing
    )
    at = await business_time(tx, tenant_id, now)
    price = await queries.catalog.insert_price(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        plan_id=plan.id,
        meter_id=meter.id if meter else None,
        display_name=draft.display_name,
        currency=currency,
        model=draft.model,
        config=json.dumps(pricing.to_config(checked), sort_keys=True),
        billing_timing=timing,
        now=at,
    )
    assert price is not None, "an INSERT without a conflict clause returns its row"
    resource = encode(Prefix.PRICE, price.id)
    payload = payloads.PriceCreated(
        price_id=resource,
        plan_id=encode(Prefix.PLAN, plan.id),
        meter_id=encode(Prefix.METER, meter.id) if meter else "",
    )
    await _emit(tx, tenant_id, resource, payload, (cause, at, now))
    return price


async def _meter_to_price(tx: Connection, tenant_id: UUID, draft: NewPrice) -> Meter | None:
    if not draft.meter_key:
        if draft.model != "flat":
            raise Invalid.field(
                "meter_key", f"a price of the model {draft.model} prices a meter; name its key"
            )
        return None
    if draft.model == "flat":
        raise Invalid.field(
            "meter_key", "a flat price goes by the licensed quantity; leave the meter empty"
        )
    meter = await get_meter(tx, tenant_id, key=draft.meter_key)
    if meter.archived_at is not None:
        raise MeterArchived(metadata={"meter": meter.key})
    return meter


def _taken(kind: str, key: str) -> AlreadyExists:
    return AlreadyExists(
        f"A {kind} with the key {key!r} exists.", metadata={"kind": kind, "key": key}
    )


async def _emit(
    tx: Connection,
    tenant_id: UUID,
    resource: str,
    payload: Message,
    when: tuple[Cause, datetime, datetime],
) -> None:
    """Catalog entries never change, so their one event is of version 1."""
    cause, at, now = when
    await events.emit(tx, [events.NewEvent(tenant_id, resource, 1, payload, at, cause)], now=now)
