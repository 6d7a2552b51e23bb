"""Invoice path, before step 4: what people put on invoices.

Invariant: items come and go under the lock that finalization takes first, that of the subscription or of the manual
draft, so that an item is on exactly one invoice that counts, or waits for the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Final
from uuid import UUID

import queries.invoice_items
import queries.manual_invoices
import queries.subscriptions
from queries.models import Invoice, InvoiceItem

from billing.domain.errors import Exhausted, Invalid, NotFound, Precondition
from billing.domain.ids import Prefix, encode
from billing.domain.invoice import InvoiceKind, InvoiceStatus
from billing.domain.money import Money
from billing.domain.totals import checked_tax
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services.business_time import business_time
from billing.services.invoices import InvoiceNotFound, read_invoice
from billing.services.subscriptions import SubscriptionNotFound

ITEMS_MAX: Final = 500


class InvoiceItemNotFound(NotFound):
    """There is no such item in this tenant."""

    reason = "INVOICE_ITEM_NOT_FOUND"


class InvoiceNotDraft(Precondition):
    """The invoice is final; correct it with a credit note or another invoice."""

    reason = "INVOICE_NOT_DRAFT"


class TooManyItems(Exhausted):
    """The invoice has as many items as it may; make another one."""

    reason = "TOO_MANY_INVOICE_ITEMS"


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item: `unit_amount` is exact major units and may be negative; the line is rounded once."""

    description: str
    quantity: Decimal
    unit_amount: Decimal
    tax_percent: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """What an item is for: a manual draft, or the next invoice of a subscription."""

    customer_id: UUID
    currency: str
    subscription_id: UUID | None = None
    invoice_id: UUID | None = None


async def add_item(
    tx: Connection, tenant_id: UUID, owner: Owner, draft: NewItem, *, now: datetime
) -> InvoiceItem:
    """A new item. For callers that hold the owner's lock. Raises TooManyItems, AmountOutOfRange, Invalid."""
    if not draft.quantity:
        raise Invalid.field("quantity", "must not be zero")
    checked_tax(draft.tax_percent)
    if await _count(tx, tenant_id, owner) >= ITEMS_MAX:
        raise TooManyItems(metadata={"limit": str(ITEMS_MAX)})
    amount = Money.of_exact(Fraction(draft.quantity) * Fraction(draft.unit_amount), owner.currency)
    item = await queries.invoice_items.insert_invoice_item(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        customer_id=owner.customer_id,
        subscription_id=owner.subscription_id,
        invoice_id=owner.invoice_id,
        description=draft.description,
        quantity=draft.quantity,
        unit_amount=draft.unit_amount,
        amount=amount.minor_units,
        currency=owner.currency,
        tax_percent=draft.tax_percent,
        created_at=await business_time(tx, tenant_id, now),
    )
    assert item is not None, "an INSERT without a conflict clause returns its row"
    return item


async def lock_manual_draft(tx: Connection, tenant_id: UUID, invoice_id: UUID) -> Invoice:
    """The manual draft, locked. Raises InvoiceNotFound, InvoiceNotDraft, or Invalid for one of a subscription."""
    row = await queries.manual_invoices.lock_manual_invoice(tx, tenant_id=tenant_id, id=invoice_id)
    if row is None:
        raise InvoiceNotFound(metadata={"invoice": encode(Prefix.INVOICE, invoice_id)})
    if row.kind != InvoiceKind.MANUAL:
        raise Invalid.field(
            "invoice_id",
            "is an invoice of a subscription; name the subscription, and its next one takes the item",
        )
    if row.status != InvoiceStatus.DRAFT:
        raise InvoiceNotDraft(metadata={"invoice": encode(Prefix.INVOICE, invoice_id)})
    return row


async def owner_of(
    tx: Connection, tenant_id: UUID, *, invoice_id: UUID | None, subscription_id: UUID | None
) -> Owner:
    """The draft or the subscription, locked. Raises what `lock_manual_draft` raises, SubscriptionNotFound, Invalid."""
    if invoice_id is not None:
        invoice = await lock_manual_draft(tx, tenant_id, invoice_id)
        return Owner(invoice.customer_id, invoice.currency, invoice_id=invoice.id)
    if (
        subscription_id is None
    ):  # the contract demands one of the two, and takes an empty one for it
        raise Invalid.field("invoice_id", "name the draft, or a subscription for its next invoice")
    rows = await queries.subscriptions.lock_subscriptions(
        tx, tenant_ids=[tenant_id], ids=[subscription_id]
    )
    if not rows:
        named = encode(Prefix.SUBSCRIPTION, subscription_id)
        raise SubscriptionNotFound(metadata={"subscription": named})
    if rows[0].status == "canceled":
        raise Invalid.field(
            "subscription_id", "is canceled and has no next invoice; make one of its own"
        )
    return Owner(rows[0].customer_id, rows[0].currency, subscription_id=subscription_id)


async def remove_item(tx: Connection, tenant_id: UUID, item_id: UUID, *, now: datetime) -> None:
    """Takes an item back that is on no final invoice. Raises InvoiceItemNotFound, InvoiceNotDraft."""
    item = await queries.invoice_items.get_invoice_item(tx, tenant_id=tenant_id, id=item_id)
    if item is not None and item.subscription_id is not None:
        await queries.subscriptions.lock_subscriptions(
            tx, tenant_ids=[tenant_id], ids=[item.subscription_id]
        )
    elif item is not None and item.invoice_id is not None:
        await lock_manual_draft(tx, tenant_id, item.invoice_id)
    # Read again behind the lock: its invoice may have become final since.
    item = await queries.invoice_items.get_invoice_item(tx, tenant_id=tenant_id, id=item_id)
    if item is None:
        raise InvoiceItemNotFound(metadata={"item": encode(Prefix.INVOICE_ITEM, item_id)})
    if item.invoice_id is not None:
        # The draft that was made for a void invoice has its items.
        invoice = await read_invoice(tx, tenant_id, item.invoice_id)
        if invoice.status != InvoiceStatus.DRAFT:
            raise InvoiceNotDraft(metadata={"invoice": encode(Prefix.INVOICE, invoice.id)})
    await queries.invoice_items.remove_invoice_item(tx, tenant_id=tenant_id, id=item_id, now=now)


async def list_items(
    tx: Connection,
    tenant_id: UUID,
    *,
    invoice_id: UUID | None,
    subscription_id: UUID | None,
    after: UUID | None,
    limit: int,
) -> Sequence[InvoiceItem]:
    """At most `limit` items of an invoice, or those that wait for a subscription's next one, oldest first."""
    if invoice_id is not None:
        return await queries.invoice_items.list_invoice_items(
            tx, tenant_id=tenant_id, invoice_id=invoice_id, after=after, page_max=limit
        )
    if (
        subscription_id is None
    ):  # the contract demands one of the two, and takes an empty one for it
        raise Invalid.field("invoice_id", "name the draft, or a subscription for its next invoice")
    return await queries.invoice_items.list_waiting_items(
        tx, tenant_id=tenant_id, subscription_id=subscription_id, after=after, page_max=limit
    )


async def _count(tx: Connection, tenant_id: UUID, owner: Owner) -> int:
    if owner.invoice_id is not None:
        found = await queries.invoice_items.count_invoice_items(
            tx, tenant_id=tenant_id, invoice_id=owner.invoice_id
        )
    else:
        assert owner.subscription_id is not None, "an owner is one of the two"
        found = await queries.invoice_items.count_waiting_items(
            tx, tenant_id=tenant_id, subscription_id=owner.subscription_id
        )
    return found or 0
