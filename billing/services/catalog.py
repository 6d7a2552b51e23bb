"""Usage path, before step 1: meters, plans and prices.

Invariant: a price is written once; its numbers were checked by the rules that will compute with them, so whatever
stands in the catalog can be rated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

import queries.catalog
from google.protobuf.message import Message
from queries.models import Meter, Plan, Price
from tollway.catalog.v1 import catalog_events_pb2 as payloads
from tollway.catalog.v1 import catalog_service_pb2 as pb

from billing.domain import pricing
from billing.domain.currency import exponent_of
from billing.domain.decimals import parse_decimal
from billing.domain.errors import (
    AlreadyExists,
    CurrencyMismatch,
    Invalid,
    InvalidDecimal,
    InvalidMeter,
    NotFound,
    Precondition,
)
from billing.domain.fields import DECIMAL_LIMIT
from billing.domain.filters import filters_config, parse_filters
from billing.domain.ids import Prefix, encode
from billing.domain.meter import Aggregation
from billing.domain.meter import Meter as CountingMeter
from billing.domain.proration import Granularity
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.business_time import business_time
from billing.services.price_checks import check_price

TAX_PERCENT_MAX: Final = 100


class MeterNotFound(NotFound):
    """There is no such meter in this tenant; create it with CreateMeter."""

    reason = "METER_NOT_FOUND"


class MeterArchived(Precondition):
    """The meter is archived and takes no new prices or usage."""

    reason = "METER_ARCHIVED"


class PlanArchived(Precondition):
    """The plan is archived and takes no new prices and no new subscriptions."""

    reason = "PLAN_ARCHIVED"


class PlanNotFound(NotFound):
    """There is no such plan in this tenant; create it with CreatePlan."""

    reason = "PLAN_NOT_FOUND"


class MeterAlreadyPriced(Precondition):
    """A customer's usage of a meter can be billed by one subscription item at a time only."""

    reason = "METER_ALREADY_PRICED"


@dataclass(frozen=True, slots=True)
class NewMeter:
    """A meter to make; an empty display name takes the key. `filters` are as billing.domain.filters reads them."""

    key: str
    display_name: str
    aggregation: str
    value_property: str = ""
    unique_property: str = ""
    filters: Sequence[Mapping[str, object]] = ()
    group_by: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class NewPlan:
    """A plan to make; an empty display name takes the key. `commitment` is a decimal text, empty for none."""

    key: str
    display_name: str
    currency: str
    interval: str
    granularity: Granularity = Granularity.SECOND
    commitment: str = ""


@dataclass(frozen=True, slots=True)
class NewPrice:
    """A price to make: `model` and `config` as billing.domain.pricing reads them.

    An empty meter key makes a price by licensed quantity; an empty currency takes the plan's; no timing takes the
    default; `tax_percent` is a decimal text, empty for none. `bill_trial_usage`: the activation's invoice
    bills the usage of a trial.
    """

    display_name: str
    meter_key: str
    currency: str
    model: str
    config: Mapping[str, object]
    billing_timing: pricing.BillingTiming | None
    tax_percent: str = ""
    bill_trial_usage: bool = False
    superseded: UUID | None = None  # the price that it takes the place of


async def create_meter(
    tx: Connection, tenant_id: UUID, draft: NewMeter, cause: Cause, *, now: datetime
) -> Meter:
    """A new meter; emits meter.created. Raises AlreadyExists or InvalidMeter."""
    counts = check_new_meter(draft)
    at = await business_time(tx, tenant_id, now)
    meter = await queries.catalog.insert_meter(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        key=draft.key,
        display_name=draft.display_name or draft.key,
        aggregation=draft.aggregation,
        value_property=draft.value_property or None,
        unique_property=counts.unique_property,
        filters=json.dumps(filters_config(counts.filters)),
        group_by=list(counts.group_by),
        now=at,
    )
    if meter is None:
        raise _taken("meter", draft.key)
    resource = encode(Prefix.METER, meter.id)
    aggregation = pb.Aggregation.Value(f"AGGREGATION_{meter.aggregation.upper()}")
    payload = payloads.MeterCreated(meter_id=resource, key=meter.key, aggregation=aggregation)
    await tell(tx, tenant_id, resource, meter.version, payload, (cause, at, now))
    return meter


def check_new_meter(draft: NewMeter) -> CountingMeter:
    """What the meter counts. Raises InvalidMeter, naming the field."""
    aggregation = Aggregation(draft.aggregation)
    if draft.value_property and aggregation in (Aggregation.COUNT, Aggregation.UNIQUE):
        raise InvalidMeter.field("value_property", f"the aggregation {aggregation} takes no value.")
    return CountingMeter(
        aggregation,
        draft.unique_property or None,
        parse_filters(list(draft.filters)),
        tuple(draft.group_by),
    )


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
    """A new plan without prices; emits plan.created. Raises AlreadyExists, UnknownCurrency or InvalidDecimal."""
    commitment = check_new_plan(draft)
    at = await business_time(tx, tenant_id, now)
    plan = await queries.catalog.insert_plan(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        key=draft.key,
        display_name=draft.display_name or draft.key,
        currency=draft.currency,
        billing_interval=draft.interval,
        granularity=draft.granularity,
        commitment=commitment or None,
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
    await tell(tx, tenant_id, resource, plan.version, payload, (cause, at, now))
    return plan


def check_new_plan(draft: NewPlan) -> Decimal | None:
    """The commitment. Raises UnknownCurrency or InvalidDecimal."""
    exponent_of(draft.currency, path="currency_code")
    return _within(draft.commitment, "commitment_amount", DECIMAL_LIMIT)


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

    Raises PlanArchived, MeterNotFound, MeterArchived, MeterAlreadyPriced, InvalidPrice, InvalidDecimal,
    CurrencyMismatch.
    """
    timing, tax_percent = check_new_price(draft, plan.currency)
    # Under the lock nobody archives the plan, and of two prices for one meter the second sees the first.
    locked = await queries.catalog.lock_plan(tx, tenant_id=tenant_id, id=plan.id)
    if locked is None or locked.archived_at is not None:
        raise PlanArchived(metadata={"plan": plan.key})
    meter = await _meter_to_price(tx, tenant_id, draft)
    if meter is not None:
        await _refuse_priced_meter(tx, plan, meter, draft.superseded)
    checked = check_price(draft.model, draft.config, plan.currency, meter)
    at = await business_time(tx, tenant_id, now)
    price = await queries.catalog.insert_price(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        plan_id=plan.id,
        meter_id=meter.id if meter else None,
        display_name=draft.display_name,
        currency=plan.currency,
        model=draft.model,
        config=json.dumps(pricing.to_config(checked), sort_keys=True),
        billing_timing=timing,
        tax_percent=tax_percent,
        bill_trial_usage=draft.bill_trial_usage,
        now=at,
    )
    assert price is not None, "an INSERT without a conflict clause returns its row"
    resource = encode(Prefix.PRICE, price.id)
    payload = payloads.PriceCreated(
        price_id=resource,
        plan_id=encode(Prefix.PLAN, plan.id),
        meter_id=encode(Prefix.METER, meter.id) if meter else "",
    )
    await tell(tx, tenant_id, resource, price.version, payload, (cause, at, now))
    return price


def check_new_price(draft: NewPrice, currency: str) -> tuple[pricing.BillingTiming, Decimal | None]:
    """When it is billed, and its tax. Raises what is wrong with it whatever its plan and its meter are.

    That is CurrencyMismatch, InvalidPrice, InvalidDecimal or Invalid; `currency` is the plan's.
    """
    if draft.currency not in ("", currency):
        raise CurrencyMismatch(
            f"The plan is in {currency}; a price of it cannot be in {draft.currency}.",
            metadata={"expected": currency, "actual": draft.currency},
        )
    metered, is_flat = bool(draft.meter_key), draft.model == pricing.PriceModel.FLAT
    if not metered and not is_flat:
        raise Invalid.field(
            "meter_key", f"a price of the model {draft.model} prices a meter; name its key"
        )
    if metered and is_flat:
        raise Invalid.field(
            "meter_key", "a flat price goes by the licensed quantity; leave the meter empty"
        )
    if draft.bill_trial_usage and not metered:
        raise Invalid.field("bill_trial_usage", "a flat price has no usage; leave it unset.")
    timing = pricing.billing_timing(
        check_price(draft.model, draft.config, currency, None).model,
        metered=metered,
        chosen=draft.billing_timing,
    )
    return timing, _within(draft.tax_percent, "tax_percent", TAX_PERCENT_MAX)


async def _refuse_priced_meter(
    tx: Connection, plan: Plan, meter: Meter, superseded: UUID | None
) -> None:
    """Two prices for one meter could never be in one subscription."""
    other = await queries.catalog.find_price_of_meter(
        tx, tenant_id=plan.tenant_id, plan_id=plan.id, meter_id=meter.id, superseded=superseded
    )
    if other is not None:
        raise MeterAlreadyPriced(
            f"{encode(Prefix.PRICE, other)} of the plan {plan.key!r} prices the meter {meter.key!r} already;"
            " supersede or archive it, or make a plan of its own for this price.",
            metadata={"meter": meter.key, "subscription": ""},
        )


async def _meter_to_price(tx: Connection, tenant_id: UUID, draft: NewPrice) -> Meter | None:
    if not draft.meter_key:
        return None
    meter = await get_meter(tx, tenant_id, key=draft.meter_key)
    archived_at = await queries.catalog.hold_meter(tx, tenant_id=tenant_id, id=meter.id)
    if archived_at is not None:
        raise MeterArchived(metadata={"meter": meter.key})
    return meter


def _within(text: str, path: str, limit: int) -> Decimal | None:
    """A decimal from 0 to the limit; None for an empty text."""
    if not text:
        return None
    value = parse_decimal(text, path=path)
    if not 0 <= value <= limit:
        raise InvalidDecimal.field(path, f"give a number from 0 to {limit}.")
    return value


def _taken(kind: str, key: str) -> AlreadyExists:
    return AlreadyExists(
        f"A {kind} with the key {key!r} exists.", metadata={"kind": kind, "key": key}
    )


async def tell(
    tx: Connection,
    tenant_id: UUID,
    resource: str,
    version: int,
    payload: Message,
    when: tuple[Cause, datetime, datetime],
) -> None:
    """Emits what became of a catalog entry, at its new version. `when` is cause, business time, machine time."""
    cause, at, now = when
    await events.emit(
        tx, [events.NewEvent(tenant_id, resource, version, payload, at, cause)], now=now
    )
