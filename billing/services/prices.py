"""Subscription path, beside it: prices are superseded and archived, never edited.

Invariant: what a price costs never changes; a superseded one is archived and names its successor, of the same plan and
meter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import queries.catalog
from queries.models import Plan, Price
from tollway.catalog.v1 import catalog_events_pb2 as payloads

from billing.domain.errors import NotFound, Precondition
from billing.domain.ids import Prefix, encode
from billing.domain.pricing import BillingTiming
from billing.runtime.db import Connection
from billing.services import catalog
from billing.services.actor import Cause
from billing.services.business_time import business_time


class PriceNotFound(NotFound):
    """There is no such price in this tenant; create it with CreatePrice."""

    reason = "PRICE_NOT_FOUND"


class PriceNotInPlan(Precondition):
    """The price belongs to another plan; take a price of the subscription's own plan."""

    reason = "PRICE_NOT_IN_PLAN"


class PriceArchived(Precondition):
    """The price is archived; take the one that superseded it."""

    reason = "PRICE_ARCHIVED"


def archived_metadata(price: Price) -> dict[str, str]:
    """What PriceArchived says of an archived price."""
    successor = encode(Prefix.PRICE, price.superseded_by) if price.superseded_by else ""
    return {"price": encode(Prefix.PRICE, price.id), "superseded_by": successor}


@dataclass(frozen=True, slots=True)
class Successor:
    """The terms of the price that takes another one's place; an empty display name keeps the old one's."""

    display_name: str
    model: str
    config: Mapping[str, object]
    tax_percent: str = ""


@dataclass(frozen=True, slots=True)
class PriceFilter:
    """Which prices to list; None for all."""

    plan_id: UUID | None = None
    meter_id: UUID | None = None
    include_archived: bool = False


async def get_price(tx: Connection, tenant_id: UUID, price_id: UUID) -> Price:
    """The price. Raises PriceNotFound."""
    price = await queries.catalog.get_price(tx, tenant_id=tenant_id, id=price_id)
    if price is None:
        raise PriceNotFound(metadata={"price": encode(Prefix.PRICE, price_id)})
    return price


async def not_offered(
    tx: Connection, tenant_id: UUID, price_id: UUID, plan: Plan
) -> PriceNotFound | PriceNotInPlan:
    """Why a price that the plan does not have cannot be taken: there is no such price, or it is another plan's."""
    price = await queries.catalog.get_price(tx, tenant_id=tenant_id, id=price_id)
    named = {"price": encode(Prefix.PRICE, price_id)}
    if price is None:
        return PriceNotFound(metadata=named)
    other, _ = await catalog.get_plan(tx, tenant_id, plan_id=price.plan_id)
    return PriceNotInPlan(
        f"{named['price']} is a price of the plan {other.key!r}; take a price of the plan {plan.key!r}.",
        metadata=named | {"plan": other.key},
    )


async def list_prices(
    tx: Connection, tenant_id: UUID, wanted: PriceFilter, *, before: UUID | None, limit: int
) -> list[Price]:
    """At most `limit` prices, newest first, those made before `before`."""
    return await queries.catalog.page_prices(
        tx,
        tenant_id=tenant_id,
        plan_id=wanted.plan_id,
        meter_id=wanted.meter_id,
        include_archived=wanted.include_archived,
        before=before,
        page_max=limit,
    )


async def supersede_price(
    tx: Connection,
    tenant_id: UUID,
    price_id: UUID,
    successor: Successor,
    cause: Cause,
    *,
    now: datetime,
) -> tuple[Price, Price]:
    """The new price and the old one, which is archived; emits price.created and price.superseded.

    Subscriptions that have the old one keep it. Raises PriceNotFound, PriceArchived, and what create_price raises.
    """
    old = await _lock(tx, tenant_id, price_id)
    if old.archived_at is not None:
        raise PriceArchived(metadata=archived_metadata(old))
    plan, _ = await catalog.get_plan(tx, tenant_id, plan_id=old.plan_id)
    meter_key = ""
    if old.meter_id is not None:
        meter_key = (await catalog.get_meter(tx, tenant_id, meter_id=old.meter_id)).key
    draft = catalog.NewPrice(
        successor.display_name or old.display_name,
        meter_key,
        old.currency,
        successor.model,
        successor.config,
        BillingTiming(old.billing_timing),
        successor.tax_percent,
        old.bill_trial_usage,
        old.id,
    )
    new = await catalog.create_price(tx, tenant_id, plan, draft, cause, now=now)
    resource = encode(Prefix.PRICE, old.id)
    payload = payloads.PriceSuperseded(
        price_id=resource,
        plan_id=encode(Prefix.PLAN, plan.id),
        superseded_by_price_id=encode(Prefix.PRICE, new.id),
    )
    return new, await _archive(tx, old, new.id, payload, (cause, now))


async def archive_price(
    tx: Connection, tenant_id: UUID, price_id: UUID, cause: Cause, *, now: datetime
) -> Price:
    """The archived price; emits price.archived, the first time. Raises PriceNotFound."""
    price = await _lock(tx, tenant_id, price_id)
    if price.archived_at is not None:
        return price
    payload = payloads.PriceArchived(
        price_id=encode(Prefix.PRICE, price.id), plan_id=encode(Prefix.PLAN, price.plan_id)
    )
    return await _archive(tx, price, None, payload, (cause, now))


async def _archive(
    tx: Connection,
    price: Price,
    successor_id: UUID | None,
    payload: payloads.PriceSuperseded | payloads.PriceArchived,
    when: tuple[Cause, datetime],
) -> Price:
    cause, now = when
    at = await business_time(tx, price.tenant_id, now)
    archived = await queries.catalog.archive_price(
        tx, tenant_id=price.tenant_id, id=price.id, superseded_by=successor_id, now=at
    )
    assert archived is not None, "the row is locked"
    resource = encode(Prefix.PRICE, price.id)
    await catalog.tell(tx, price.tenant_id, resource, archived.version, payload, (cause, at, now))
    return archived


async def _lock(tx: Connection, tenant_id: UUID, price_id: UUID) -> Price:
    price = await queries.catalog.lock_price(tx, tenant_id=tenant_id, id=price_id)
    if price is None:
        raise PriceNotFound(metadata={"price": encode(Prefix.PRICE, price_id)})
    return price
