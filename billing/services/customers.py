"""Subscription path, before step 1: customers. Invariant: an external id names one customer of its tenant, for ever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

import queries.customers
from queries.models import Customer
from tollway.customer.v1 import customer_events_pb2

from billing.domain import period
from billing.domain.errors import AlreadyExists, Invalid, NotFound
from billing.domain.ids import Prefix, encode
from billing.domain.totals import checked_tax
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.business_time import business_time
from billing.services.tenants import get_tenant


class CustomerNotFound(NotFound):
    """There is no such customer in this tenant; create it with CreateCustomer."""

    reason = "CUSTOMER_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class NewCustomer:
    """A customer to make; an empty time zone takes the tenant's, its own tax goes before that of prices.

    Payment terms are days, 0 to 365; None takes the tenant's.
    """

    external_id: str
    display_name: str
    time_zone: str
    email: str = ""
    address: str = ""
    tax_number: str = ""
    tax_percent: Decimal | None = None
    payment_terms_days: int | None = None


@dataclass(frozen=True, slots=True)
class CustomerChange:
    """New values by field, for each field named in CHANGEABLE that is to change."""

    customer_id: UUID
    values: Mapping[str, str | Decimal | int | None]


CHANGEABLE: Final = (
    "display_name", "email", "address", "tax_number", "tax_percent", "payment_terms_days",
)  # fmt: skip


async def create_customer(
    tx: Connection, tenant_id: UUID, draft: NewCustomer, cause: Cause, *, now: datetime
) -> Customer:
    """A new customer; emits customer.created. Raises AlreadyExists or InvalidTimeZone."""
    time_zone = draft.time_zone or (await get_tenant(tx, tenant_id)).time_zone
    period.time_zone(time_zone)
    at = await business_time(tx, tenant_id, now)
    customer = await queries.customers.insert_customer(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        external_id=draft.external_id or None,
        display_name=draft.display_name,
        time_zone=time_zone,
        email=draft.email,
        address=draft.address,
        tax_number=draft.tax_number,
        tax_percent=checked_tax(draft.tax_percent),
        payment_terms_days=draft.payment_terms_days,
        now=at,
    )
    if customer is None:
        raise AlreadyExists(
            f"A customer with the external id {draft.external_id!r} exists.",
            metadata={"kind": "customer", "key": draft.external_id},
        )
    resource = encode(Prefix.CUSTOMER, customer.id)
    payload = customer_events_pb2.CustomerCreated(
        customer_id=resource, external_id=draft.external_id
    )
    await events.emit(
        tx, [events.NewEvent(tenant_id, resource, customer.version, payload, at, cause)], now=now
    )
    return customer


async def update_customer(
    tx: Connection, tenant_id: UUID, change: CustomerChange, cause: Cause, *, now: datetime
) -> Customer:
    """The changed customer; emits customer.updated. Raises CustomerNotFound, or Invalid for what may not stand."""
    values = dict(change.values)
    if not values.get("display_name", "x"):
        raise Invalid.field("display_name", "must not be empty")
    tax = values.get("tax_percent")
    if isinstance(tax, Decimal):
        checked_tax(tax)
    resource = encode(Prefix.CUSTOMER, change.customer_id)
    before = await queries.customers.advance_customer_version(
        tx, tenant_id=tenant_id, id=change.customer_id
    )
    if before is None:
        raise CustomerNotFound(metadata={"customer": resource})
    wanted = replace(before, **values)  # type: ignore[arg-type] # each by its field's name
    after = await queries.customers.update_customer(
        tx,
        tenant_id=tenant_id,
        id=before.id,
        display_name=wanted.display_name,
        email=wanted.email,
        address=wanted.address,
        tax_number=wanted.tax_number,
        tax_percent=wanted.tax_percent,
        payment_terms_days=wanted.payment_terms_days,
    )
    assert after is not None, "it is locked"
    at = await business_time(tx, tenant_id, now)
    payload = customer_events_pb2.CustomerUpdated(customer_id=resource, fields=sorted(values))
    await events.emit(
        tx, [events.NewEvent(tenant_id, resource, after.version, payload, at, cause)], now=now
    )
    return after


async def get_customer(
    tx: Connection, tenant_id: UUID, *, customer_id: UUID | None, external_id: str
) -> Customer:
    """The customer by id, or else by external id. Raises CustomerNotFound."""
    if customer_id is not None:
        customer = await queries.customers.get_customer(tx, tenant_id=tenant_id, id=customer_id)
    else:
        customer = await queries.customers.get_customer_by_external_id(
            tx, tenant_id=tenant_id, external_id=external_id
        )
    if customer is None:
        named = encode(Prefix.CUSTOMER, customer_id) if customer_id else external_id
        raise CustomerNotFound(metadata={"customer": named})
    return customer


async def list_customers(
    tx: Connection, tenant_id: UUID, *, before: UUID | None, limit: int
) -> list[Customer]:
    """At most `limit` customers, newest first, those made before `before`."""
    return await queries.customers.list_customers(
        tx, tenant_id=tenant_id, before=before, page_max=limit
    )
