"""Subscription path, step 1: a customer gets a plan.

Invariant: a meter is priced by at most one item of a customer at any instant; the customer's row is locked while that
is checked and while coverage is made. The first usage periods are made here, so that usage which follows at once has
a place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

import queries.subscriptions
from queries.models import Customer, Plan, Price, Subscription, SubscriptionItem
from tollway.subscription.v1 import subscription_events_pb2 as payloads

from billing.domain.decimals import parse_decimal
from billing.domain.errors import AlreadyExists, Invalid, NotFound, Precondition
from billing.domain.ids import Prefix, encode
from billing.domain.period import Interval
from billing.domain.subscription import SubscriptionStatus
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.business_time import business_time
from billing.services.catalog import MeterAlreadyPriced, PlanArchived, get_plan
from billing.services.customers import CustomerNotFound, get_customer
from billing.services.new_subscription import NewItem, NewSubscription, StartTooOld, terms_of
from billing.services.prices import PriceArchived, archived_metadata, not_offered
from billing.services.subscription_terms import Terms
from billing.services.usage_assignment import assign_unassigned
from billing.services.usage_periods import make_usage_periods
from billing.services.usage_revisions import Author

__all__ = [
    "ITEMS_MAX",
    "MeterAlreadyPriced",
    "NewItem",
    "NewSubscription",
    "PlanWithoutPrices",
    "StartTooOld",
    "SubscriptionFilter",
    "SubscriptionNotFound",
    "SubscriptionView",
    "create_subscription",
    "get_subscription",
    "list_subscriptions",
]

ITEMS_MAX: Final = 50


class SubscriptionNotFound(NotFound):
    """There is no such subscription in this tenant."""

    reason = "SUBSCRIPTION_NOT_FOUND"


class PlanWithoutPrices(Precondition):
    """The plan has no price, so a subscription to it would bill nothing; add one with CreatePrice."""

    reason = "PLAN_WITHOUT_PRICES"


@dataclass(frozen=True, slots=True)
class SubscriptionView:
    """A subscription and its items, oldest first."""

    row: Subscription
    items: Sequence[SubscriptionItem]


@dataclass(frozen=True, slots=True)
class SubscriptionFilter:
    """Which subscriptions to list; None for all."""

    customer_id: UUID | None = None
    plan_id: UUID | None = None
    status: SubscriptionStatus | None = None


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a subscription is made of."""

    customer: Customer
    plan: Plan
    chosen: Sequence[tuple[Price, Decimal]]
    terms: Terms
    today: datetime


async def create_subscription(
    tx: Connection, tenant_id: UUID, draft: NewSubscription, cause: Cause, *, now: datetime
) -> SubscriptionView:
    """A new subscription in state created; emits subscription.created.

    `now` is machine time. Raises CustomerNotFound, PlanNotFound, PlanWithoutPrices, PriceNotFound, PriceNotInPlan,
    MeterAlreadyPriced, AlreadyExists, InvalidDecimal, StartTooOld, Invalid.
    """
    customer = await _lock_customer(tx, tenant_id, draft)
    plan, prices = await get_plan(tx, tenant_id, plan_id=draft.plan_id, key=draft.plan_key)
    if plan.archived_at is not None:
        raise PlanArchived(metadata={"plan": plan.key})
    if all(price.archived_at is not None for price in prices):
        raise PlanWithoutPrices(metadata={"plan": encode(Prefix.PLAN, plan.id)})
    offered = {price.id for price in prices}
    for item in draft.items:
        if item.price_id not in offered:
            raise await not_offered(tx, tenant_id, item.price_id, plan)
    today = await business_time(tx, tenant_id, now)
    chosen = _chosen(prices, draft.items)
    terms = terms_of(draft, customer.time_zone, Interval(plan.billing_interval), today)
    parts = _Parts(customer, plan, chosen, terms, today)
    await _refuse_priced_twice(tx, parts)
    row = await _insert(tx, draft, parts, now)
    items = await queries.subscriptions.list_subscription_items(
        tx, tenant_id=tenant_id, subscription_id=row.id
    )
    await make_usage_periods(tx, [(row, parts.terms.first_ones())])
    await events.emit(tx, [_created(row, parts, cause)], now=now)
    await assign_unassigned(tx, tenant_id, row.id, Author(cause), now=now)
    return SubscriptionView(row, items)


async def get_subscription(
    tx: Connection, tenant_id: UUID, *, subscription_id: UUID | None = None, external_id: str = ""
) -> SubscriptionView:
    """The subscription by id, or else by external id. Raises SubscriptionNotFound."""
    if subscription_id is not None:
        row = await queries.subscriptions.get_subscription(
            tx, tenant_id=tenant_id, id=subscription_id
        )
    else:
        row = await queries.subscriptions.get_subscription_by_external_id(
            tx, tenant_id=tenant_id, external_id=external_id
        )
    if row is None:
        named = encode(Prefix.SUBSCRIPTION, subscription_id) if subscription_id else external_id
        raise SubscriptionNotFound(metadata={"subscription": named})
    items = await queries.subscriptions.list_subscription_items(
        tx, tenant_id=tenant_id, subscription_id=row.id
    )
    return SubscriptionView(row, items)


async def list_subscriptions(
    tx: Connection, tenant_id: UUID, wanted: SubscriptionFilter, *, before: UUID | None, limit: int
) -> list[SubscriptionView]:
    """At most `limit` subscriptions, newest first, those made before `before`.

    Raises CustomerNotFound or PlanNotFound when the filter names what does not exist.
    """
    if wanted.customer_id is not None:
        await get_customer(tx, tenant_id, customer_id=wanted.customer_id, external_id="")
    if wanted.plan_id is not None:
        await get_plan(tx, tenant_id, plan_id=wanted.plan_id)
    rows = await queries.subscriptions.list_subscriptions(
        tx,
        tenant_id=tenant_id,
        before=before,
        customer_id=wanted.customer_id,
        plan_id=wanted.plan_id,
        status=wanted.status,
        page_max=limit,
    )
    items = await queries.subscriptions.list_items_of_subscriptions(
        tx, tenant_id=tenant_id, subscription_ids=[row.id for row in rows]
    )
    items_of: dict[UUID, list[SubscriptionItem]] = defaultdict(list)
    for item in items:
        items_of[item.subscription_id].append(item)
    return [SubscriptionView(row, items_of[row.id]) for row in rows]


async def _lock_customer(tx: Connection, tenant_id: UUID, draft: NewSubscription) -> Customer:
    found = await get_customer(
        tx, tenant_id, customer_id=draft.customer_id, external_id=draft.external_customer_id
    )
    locked = await queries.subscriptions.lock_customer(tx, tenant_id=tenant_id, id=found.id)
    if locked is None:
        raise CustomerNotFound(metadata={"customer": encode(Prefix.CUSTOMER, found.id)})
    return locked


def _chosen(prices: Sequence[Price], items: Sequence[NewItem]) -> list[tuple[Price, Decimal]]:
    """The prices to take with their quantities, in the order given: each price, and each meter, once, none archived.

    `prices` are all of the plan's, and every item names one of them.
    """
    offered = [NewItem(price.id) for price in prices if price.archived_at is None]
    if len(items or offered) > ITEMS_MAX:
        raise Invalid.field("items", f"a subscription has at most {ITEMS_MAX} items; name them.")
    known = {price.id: price for price in prices}
    chosen: list[tuple[Price, Decimal]] = []
    for place, item in enumerate(items or offered):
        price = known.pop(item.price_id, None)
        if price is None:
            raise Invalid.field(f"items[{place}].price_id", "names a price a second time.")
        if price.archived_at is not None:
            raise PriceArchived(metadata=archived_metadata(price))
        if price.meter_id and any(price.meter_id == taken.meter_id for taken, _ in chosen):
            raise MeterAlreadyPriced(
                "Two of these prices are for one meter; name the items and take one of them.",
                metadata={"meter": encode(Prefix.METER, price.meter_id), "subscription": ""},
            )
        if item.subscription_required and not price.meter_id:
            path = f"items[{place}].subscription_required"
            raise Invalid.field(path, "only the usage of a metered price can name a subscription.")
        chosen.append((price, _quantity(item, price, f"items[{place}].quantity")))
    return chosen


def _quantity(item: NewItem, price: Price, path: str) -> Decimal:
    quantity = parse_decimal(item.quantity or "1", path=path)
    if price.meter_id and quantity != 1:
        raise Invalid.field(path, "leave it empty: the quantity of a metered price is the usage.")
    if quantity < 0:
        raise Invalid.field(path, "give a quantity of zero or more.")
    return quantity


async def _refuse_priced_twice(tx: Connection, parts: _Parts) -> None:
    meters = [price.meter_id for price, _ in parts.chosen if price.meter_id]
    if not meters:
        return
    taken = await queries.subscriptions.find_priced_meter(
        tx,
        tenant_id=parts.customer.tenant_id,
        customer_id=parts.customer.id,
        meter_ids=meters,
        start_at=parts.terms.start_at,
    )
    if taken is not None:
        other = encode(Prefix.SUBSCRIPTION, taken.subscription_id)
        raise MeterAlreadyPriced(
            f"{other} of this customer prices the meter {taken.meter_key!r} at that time.",
            metadata={"meter": taken.meter_key, "subscription": other},
        )


async def _insert(
    tx: Connection, draft: NewSubscription, parts: _Parts, now: datetime
) -> Subscription:
    customer, terms = parts.customer, parts.terms
    row = await queries.subscriptions.insert_subscription(
        tx,
        tenant_id=customer.tenant_id,
        id=new_id(now),
        external_id=draft.external_id or None,
        customer_id=customer.id,
        plan_id=parts.plan.id,
        currency=parts.plan.currency,
        billing_interval=terms.interval,
        alignment=terms.alignment,
        time_zone=terms.zone,
        start_at=terms.start_at,
        trial_end_at=terms.trial_end_at,
        anchor_at=terms.anchor_at,
        billed_until=terms.billed_until,
        # A start that has come is the consumer's, so that the trail leads on from this call.
        next_due_at=terms.start_at if terms.start_at > parts.today else None,
        created_at=parts.today,
    )
    if row is None:
        raise AlreadyExists(
            f"A subscription with the external id {draft.external_id!r} exists.",
            metadata={"kind": "subscription", "key": draft.external_id},
        )
    named = {item.price_id for item in draft.items if item.subscription_required}
    await queries.subscriptions.insert_subscription_items(
        tx,
        tenant_id=row.tenant_id,
        subscription_id=row.id,
        customer_id=row.customer_id,
        created_at=parts.today,
        ids=[new_id(now) for _ in parts.chosen],
        price_ids=[price.id for price, _ in parts.chosen],
        meter_ids=[price.meter_id for price, _ in parts.chosen],
        quantities=[f"{quantity:f}" for _, quantity in parts.chosen],
        required=[price.id in named for price, _ in parts.chosen],
    )
    return row


def _created(row: Subscription, parts: _Parts, cause: Cause) -> events.NewEvent:
    resource = encode(Prefix.SUBSCRIPTION, row.id)
    payload = payloads.SubscriptionCreated(
        subscription_id=resource,
        customer_id=encode(Prefix.CUSTOMER, row.customer_id),
        plan_id=encode(Prefix.PLAN, row.plan_id),
    )
    payload.start_time.FromDatetime(row.start_at)
    return events.NewEvent(row.tenant_id, resource, row.version, payload, parts.today, cause)
