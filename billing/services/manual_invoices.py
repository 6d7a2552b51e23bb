"""Invoice path, beside its steps: invoices that people make, with items of their own and no subscription.

Invariant: a manual invoice goes the way of all others: it is a draft that computes its lines, and finalization gives it
its number; without a time for that it waits for somebody who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import queries.manual_invoices
from google.protobuf.timestamp_pb2 import Timestamp
from queries.models import Invoice
from tollway.invoice.v1 import invoice_events_pb2 as payloads
from tollway.invoice.v1 import invoice_service_pb2 as pb

from billing.domain.currency import exponent_of
from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.business_time import business_time
from billing.services.customers import get_customer
from billing.services.invoice_items import NewItem, Owner, add_item


@dataclass(frozen=True, slots=True)
class NewInvoice:
    """A manual invoice to make. `finalize_at` is business time; None waits until somebody finalizes it."""

    customer_id: UUID
    currency: str
    memo: str
    finalize_at: datetime | None
    items: Sequence[NewItem]


async def create_invoice(
    tx: Connection, tenant_id: UUID, draft: NewInvoice, cause: Cause, *, now: datetime
) -> Invoice:
    """A new draft with its items; emits invoice.generated.

    Raises CustomerNotFound, UnknownCurrency, TooManyItems, AmountOutOfRange, Invalid.
    """
    exponent_of(draft.currency, path="currency_code")
    customer = await get_customer(tx, tenant_id, customer_id=draft.customer_id, external_id="")
    at = await business_time(tx, tenant_id, now)
    invoice = await queries.manual_invoices.insert_manual_invoice(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        customer_id=customer.id,
        currency=draft.currency,
        finalize_at=draft.finalize_at,
        correlation_id=cause.correlation_id,
        memo=draft.memo,
        at=at,
    )
    assert invoice is not None, "an INSERT without a conflict clause returns its row"
    owner = Owner(customer.id, invoice.currency, invoice_id=invoice.id)
    for item in draft.items:
        await add_item(tx, tenant_id, owner, item, now=now)
    resource = encode(Prefix.INVOICE, invoice.id)
    event = events.NewEvent(tenant_id, resource, invoice.version, _generated(invoice), at, cause)
    await events.emit(tx, [event], now=now)
    return invoice


def _generated(invoice: Invoice) -> payloads.InvoiceGenerated:
    boundary = Timestamp()
    boundary.FromDatetime(invoice.boundary)
    payload = payloads.InvoiceGenerated(
        invoice_id=encode(Prefix.INVOICE, invoice.id),
        customer_id=encode(Prefix.CUSTOMER, invoice.customer_id),
        kind=pb.INVOICE_KIND_MANUAL,
        boundary_time=boundary,
    )
    if invoice.finalize_at is not None:
        payload.finalize_time.FromDatetime(invoice.finalize_at)
    return payload
