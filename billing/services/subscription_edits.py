"""Subscription path, step 3: what a change asks for, checked against the subscription as it is.

Invariant: after a change every item has a price of the subscription's plan and currency (or the superseded one that it
had), no price and no meter stands twice, and there is an item.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

import queries.subscription_changes
import queries.subscriptions
from queries.models import Plan, Price, Subscription, SubscriptionItem

from billing.domain.decimals import parse_decimal
from billing.domain.errors import CurrencyMismatch, Invalid, NotFound
from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.services.catalog import MeterAlreadyPriced, PlanArchived, get_plan
from billing.services.prices import PriceArchived, PriceNotInPlan, archived_metadata, not_offered
from billing.services.subscriptions import ITEMS_MAX


class ItemNotFound(NotFound):
    """The subscription has no such item."""

    reason = "SUBSCRIPTION_ITEM_NOT_FOUND"


class Proration(StrEnum):
    """What a change in the midst of a period charges: at once, on the next invoice, or nothing for this period."""

    AT_ONCE = "at_once"
    NEXT_INVOICE = "next_invoice"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ItemChange:
    """One item: without an id it is added; else its price and quantity are changed where given, or it is removed.

    Of one to add, `subscription_required`: usage must name the subscription.
    """

    item_id: UUID | None = None
    price_id: UUID | None = None
    quantity: str = ""
    remove: bool = False
    subscription_required: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What to change. Another plan may have another interval; `anchor_at` is where its periods are counted from."""

    items: Sequence[ItemChange] = ()
    plan_id: UUID | None = None
    plan_key: str = ""
    anchor_at: datetime | None = None
    proration: Proration = Proration.AT_ONCE


@dataclass(frozen=True, slots=True)
class Edit:
    """An item before and after: `item` None is added, `price` None is removed."""

    item: SubscriptionItem | None
    price: Price | None
    quantity: Decimal
    subscription_required: bool = False  # of one that is added

    @property
    def is_metered(self) -> bool:
        """Whether usage is what it bills."""
        return bool(self.price.meter_id if self.price else self.item and self.item.meter_id)

    @property
    def is_idle(self) -> bool:
        """Whether the item is as it is asked to be."""
        return (
            self.item is not None
            and self.price is not None
            and (self.item.price_id, self.item.quantity) == (self.price.id, self.quantity)
        )


@dataclass(frozen=True, slots=True)
class Edits:
    """A checked change: the plan that it leads to, and what becomes of items."""

    plan: Plan
    edits: Sequence[Edit]


async def check(tx: Connection, row: Subscription, change: Change) -> Edits:
    """What the change does to the subscription's items.

    Raises PlanNotFound, PlanArchived, PriceNotFound, PriceNotInPlan, PriceArchived, ItemNotFound, CurrencyMismatch,
    MeterAlreadyPriced, InvalidDecimal, Invalid.
    """
    plan_id = change.plan_id if change.plan_id or change.plan_key else row.plan_id
    plan, prices = await get_plan(tx, row.tenant_id, plan_id=plan_id, key=change.plan_key)
    if plan.archived_at is not None and plan.id != row.plan_id:
        raise PlanArchived(metadata={"plan": plan.key})
    if plan.currency != row.currency:
        raise CurrencyMismatch(metadata={"expected": row.currency, "actual": plan.currency})
    items = await queries.subscriptions.list_subscription_items(
        tx, tenant_id=row.tenant_id, subscription_id=row.id
    )
    old = await queries.subscription_changes.list_prices_by_ids(
        tx, tenant_id=row.tenant_id, ids=[item.price_id for item in items]
    )
    known = {price.id: price for price in [*old, *prices]}
    offered = {price.id for price in prices}
    for one in change.items:
        if one.price_id and one.price_id not in known:
            raise await not_offered(tx, row.tenant_id, one.price_id, plan)
    edits = list(_edits(change.items, {item.id: item for item in items}, known, offered))
    touched = {edit.item.id for edit in edits if edit.item}
    kept = [item for item in items if item.id not in touched]
    _refuse_bad_result(edits, kept, offered if plan.id != row.plan_id else None)
    return Edits(plan, [edit for edit in edits if not edit.is_idle])


async def refuse_priced_elsewhere(
    tx: Connection, row: Subscription, meter_ids: Sequence[UUID], at: datetime
) -> None:
    """Raises MeterAlreadyPriced when another item of the customer prices one of the meters from `at` on."""
    taken = await queries.subscriptions.find_priced_meter(
        tx,
        tenant_id=row.tenant_id,
        customer_id=row.customer_id,
        meter_ids=list(meter_ids),
        start_at=at,
    )
    if taken is not None:
        other = encode(Prefix.SUBSCRIPTION, taken.subscription_id)
        raise MeterAlreadyPriced(
            f"{other} of this customer prices the meter {taken.meter_key!r} at that time.",
            metadata={"meter": taken.meter_key, "subscription": other},
        )


def _edits(
    asked: Sequence[ItemChange],
    items: dict[UUID, SubscriptionItem],
    known: dict[UUID, Price],
    offered: set[UUID],
) -> Iterator[Edit]:
    """Each item once; `known` are the prices of plan and items, `offered` those that may be taken."""
    left = dict(items)
    for place, one in enumerate(asked):
        path = f"items[{place}]"
        if one.item_id is None:
            yield _added(one, known, offered, path)
            continue
        item = left.pop(one.item_id, None)
        if item is None and one.item_id in items:
            raise Invalid.field(f"{path}.item_id", "names an item a second time.")
        if item is None:
            raise ItemNotFound(metadata={"item": encode(Prefix.SUBSCRIPTION_ITEM, one.item_id)})
        yield _changed(one, item, known, offered, path)


def _added(one: ItemChange, known: dict[UUID, Price], offered: set[UUID], path: str) -> Edit:
    if one.price_id is None:
        raise Invalid.field(f"{path}.price_id", "name the price of the item to add.")
    if one.remove:
        raise Invalid.field(f"{path}.remove", "name the item_id of the item to remove.")
    price = _offered(one.price_id, known, offered)
    if one.subscription_required and not price.meter_id:
        raise Invalid.field(
            f"{path}.subscription_required",
            "only the usage of a metered price can name a subscription.",
        )
    quantity = _quantity(one.quantity or "1", price, path)
    return Edit(None, price, quantity, one.subscription_required)


def _changed(
    one: ItemChange,
    item: SubscriptionItem,
    known: dict[UUID, Price],
    offered: set[UUID],
    path: str,
) -> Edit:
    if one.subscription_required:
        raise Invalid.field(
            f"{path}.subscription_required",
            "is said when an item is added; remove the item and add another.",
        )
    if one.remove:
        if one.price_id or one.quantity:
            raise Invalid.field(f"{path}.remove", "an item to remove has no new price or quantity.")
        return Edit(item, None, Decimal(0))
    if not one.price_id and not one.quantity:
        raise Invalid.field(path, "give a price, a quantity, or remove.")
    price = known[item.price_id]
    if one.price_id and one.price_id != item.price_id:
        price = _offered(one.price_id, known, offered)
    if price.meter_id != item.meter_id:
        raise Invalid.field(
            f"{path}.price_id", "must be for the item's meter; remove the item and add another."
        )
    quantity = _quantity(one.quantity, price, path) if one.quantity else item.quantity
    return Edit(item, price, quantity)


def _offered(price_id: UUID, known: dict[UUID, Price], offered: set[UUID]) -> Price:
    if price_id not in offered:
        raise PriceNotInPlan(metadata={"price": encode(Prefix.PRICE, price_id), "plan": ""})
    if known[price_id].archived_at is not None:
        raise PriceArchived(metadata=archived_metadata(known[price_id]))
    return known[price_id]


def _quantity(text: str, price: Price, path: str) -> Decimal:
    quantity = parse_decimal(text, path=f"{path}.quantity")
    if price.meter_id and quantity != 1:
        raise Invalid.field(
            f"{path}.quantity", "leave it empty: the quantity of a metered price is the usage."
        )
    if quantity < 0:
        raise Invalid.field(f"{path}.quantity", "give a quantity of zero or more.")
    return quantity


def _refuse_bad_result(
    edits: Sequence[Edit], kept: Sequence[SubscriptionItem], required: set[UUID] | None
) -> None:
    """`required` are the prices of a new plan, which all items must have then."""
    left = [(edit.price.id, edit.price.meter_id) for edit in edits if edit.price]
    left += [(item.price_id, item.meter_id) for item in kept]
    if not left:
        raise Invalid.field("items", "a subscription keeps one item at least; cancel it instead.")
    if len(left) > ITEMS_MAX:
        raise Invalid.field("items", f"a subscription has at most {ITEMS_MAX} items.")
    prices = [price_id for price_id, _ in left]
    if len(set(prices)) < len(prices):
        raise Invalid.field("items", "a subscription has each price once.")
    meters = [meter_id for _, meter_id in left if meter_id]
    if len(set(meters)) < len(meters):
        twice = next(meter for meter in meters if meters.count(meter) > 1)
        raise MeterAlreadyPriced(
            "Two items would price one meter; remove one of them.",
            metadata={"meter": encode(Prefix.METER, twice), "subscription": ""},
        )
    if required is not None and not required.issuperset(prices):
        raise Invalid.field(
            "items", "every item needs a price of the new plan; change or remove the others."
        )
