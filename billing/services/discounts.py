"""Invoice path, before step 4: discounts of customers and of subscriptions.

Invariant: a discount is never changed, only ended; what it took from final invoices stays. It uses up one of its
periods with each invoice that it lowers, and gets it back when that invoice is voided to be made again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import queries.discounts
import queries.subscriptions
from queries.models import Discount
from tollway.invoice.v1 import discount_events_pb2

from billing.domain.currency import exponent_of
from billing.domain.errors import CurrencyMismatch, Exhausted, Invalid, NotFound
from billing.domain.ids import Prefix, encode
from billing.domain.money import Money
from billing.domain.totals import DISCOUNTS_MAX
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.business_time import business_time
from billing.services.customers import CustomerNotFound
from billing.services.subscriptions import get_subscription


class DiscountNotFound(NotFound):
    """There is no such discount in this tenant."""

    reason = "DISCOUNT_NOT_FOUND"


class TooManyDiscounts(Exhausted):
    """The customer has as many discounts as an invoice may carry; end one first."""

    reason = "TOO_MANY_DISCOUNTS"


@dataclass(frozen=True, slots=True)
class NewDiscount:
    """A discount to make, of a subscription or else of a customer. Either a percentage or an amount is given.

    `periods` of 0 last until it is ended.
    """

    customer_id: UUID | None
    subscription_id: UUID | None
    display_name: str
    percent: Decimal | None
    amount: Money | None
    periods: int


@dataclass(frozen=True, slots=True)
class DiscountView:
    """A discount, and how many of its periods are used up."""

    row: Discount
    uses: int


async def create_discount(
    tx: Connection, tenant_id: UUID, draft: NewDiscount, cause: Cause, *, now: datetime
) -> DiscountView:
    """A new discount; emits discount.created. Drafts take it at once.

    Raises CustomerNotFound, SubscriptionNotFound, CurrencyMismatch, UnknownCurrency, TooManyDiscounts, Invalid.
    """
    if draft.percent is not None and not 0 < draft.percent <= 100:
        raise Invalid.field("percent", "must be above 0 and at most 100")
    if draft.amount is not None and draft.amount.minor_units <= 0:
        raise Invalid.field("amount", "must be above zero")
    customer_id = await _customer_of(tx, tenant_id, draft)
    if await queries.subscriptions.lock_customer(tx, tenant_id=tenant_id, id=customer_id) is None:
        raise CustomerNotFound(metadata={"customer": encode(Prefix.CUSTOMER, customer_id)})
    live = await queries.discounts.count_live_discounts(
        tx, tenant_id=tenant_id, customer_id=customer_id
    )
    if (live or 0) >= DISCOUNTS_MAX:
        raise TooManyDiscounts(metadata={"limit": str(DISCOUNTS_MAX)})
    at = await business_time(tx, tenant_id, now)
    row = await queries.discounts.insert_discount(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        customer_id=customer_id,
        subscription_id=draft.subscription_id,
        display_name=draft.display_name,
        percent=draft.percent,
        amount=draft.amount.minor_units if draft.amount else None,
        currency=draft.amount.currency if draft.amount else None,
        periods=draft.periods or None,
        created_at=at,
    )
    assert row is not None, "an INSERT without a conflict clause returns its row"
    payload = discount_events_pb2.DiscountCreated(
        discount_id=encode(Prefix.DISCOUNT, row.id),
        customer_id=encode(Prefix.CUSTOMER, customer_id),
        subscription_id=encode(Prefix.SUBSCRIPTION, draft.subscription_id)
        if draft.subscription_id
        else "",
    )
    resource = encode(Prefix.DISCOUNT, row.id)
    await events.emit(tx, [events.NewEvent(tenant_id, resource, 1, payload, at, cause)], now=now)
    return DiscountView(row, 0)


async def end_discount(
    tx: Connection, tenant_id: UUID, discount_id: UUID, cause: Cause, *, now: datetime
) -> DiscountView:
    """The discount, which lowers no further invoice; emits discount.ended the first time. Raises DiscountNotFound."""
    at = await business_time(tx, tenant_id, now)
    ended = await queries.discounts.end_discount(tx, tenant_id=tenant_id, id=discount_id, now=at)
    resource = encode(Prefix.DISCOUNT, discount_id)
    if ended is not None:
        payload = discount_events_pb2.DiscountEnded(
            discount_id=resource, customer_id=encode(Prefix.CUSTOMER, ended.customer_id)
        )
        await events.emit(
            tx, [events.NewEvent(tenant_id, resource, 2, payload, at, cause)], now=now
        )
    found = await queries.discounts.get_discount(tx, tenant_id=tenant_id, id=discount_id)
    if found is None:
        raise DiscountNotFound(metadata={"discount": resource})
    return DiscountView(found.discount, found.uses)


async def list_discounts(
    tx: Connection, tenant_id: UUID, customer_id: UUID, *, before: UUID | None, limit: int
) -> list[DiscountView]:
    """At most `limit` discounts of a customer and its subscriptions, newest first, those made before `before`."""
    rows = await queries.discounts.list_discounts(
        tx, tenant_id=tenant_id, customer_id=customer_id, before=before, page_max=limit
    )
    return [DiscountView(row.discount, row.uses) for row in rows]


async def _customer_of(tx: Connection, tenant_id: UUID, draft: NewDiscount) -> UUID:
    """Whose discount it is; the currency of an amount is checked on the way."""
    if draft.amount is not None:
        exponent_of(draft.amount.currency, path="amount.currency_code")
    if draft.subscription_id is None:
        assert draft.customer_id is not None, "the contract demands one of the two"
        return draft.customer_id
    row = (await get_subscription(tx, tenant_id, subscription_id=draft.subscription_id)).row
    if draft.amount is not None and draft.amount.currency != row.currency:
        raise CurrencyMismatch(
            f"The subscription is in {row.currency}, not in {draft.amount.currency}.",
            metadata={"expected": row.currency, "actual": draft.amount.currency},
        )
    return row.customer_id
