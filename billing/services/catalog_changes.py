"""Usage path, before step 1: meters and plans are listed, renamed and archived.

Invariant: only names and the archive change; what a meter counts and what a plan promises was billed by already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from uuid import UUID

import queries.catalog
from google.protobuf.message import Message
from queries.models import Meter, Plan, Price
from tollway.catalog.v1 import catalog_events_pb2 as payloads

from billing.domain.errors import EtagMismatch, Invalid
from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.services import catalog
from billing.services.actor import Cause
from billing.services.business_time import business_time

CHANGEABLE = ("display_name",)


@dataclass(frozen=True, slots=True)
class Renaming:
    """The new display name, empty for the key. `fields` are what is to change; without `etag` in any case."""

    fields: Sequence[str]
    display_name: str
    etag: str = ""

    def check(self) -> None:
        """Raises Invalid where another field than the display name, or none, is to be changed."""
        if list(self.fields) != list(CHANGEABLE):
            raise Invalid.field(
                "update_mask",
                f"only {', '.join(CHANGEABLE)} can be changed; make another one for the rest.",
            )


def etag_of(entry: Meter | Plan) -> str:
    """What changes with every change."""
    return str(entry.version)


async def list_meters(
    tx: Connection,
    tenant_id: UUID,
    *,
    aggregation: str | None,
    include_archived: bool,
    before: UUID | None,
    limit: int,
) -> list[Meter]:
    """At most `limit` meters, newest first, those made before `before`."""
    return await queries.catalog.list_meters(
        tx,
        tenant_id=tenant_id,
        aggregation=aggregation,
        include_archived=include_archived,
        before=before,
        page_max=limit,
    )


async def list_plans(
    tx: Connection,
    tenant_id: UUID,
    *,
    currency: str | None,
    include_archived: bool,
    before: UUID | None,
    limit: int,
) -> list[tuple[Plan, list[Price]]]:
    """At most `limit` plans with their prices, newest first, those made before `before`."""
    plans = await queries.catalog.list_plans(
        tx,
        tenant_id=tenant_id,
        currency=currency,
        include_archived=include_archived,
        before=before,
        page_max=limit,
    )
    prices = await queries.catalog.list_prices_of_plans(
        tx, tenant_id=tenant_id, plan_ids=[plan.id for plan in plans]
    )
    of_plan = {key: list(rows) for key, rows in groupby(prices, key=lambda row: row.plan_id)}
    return [(plan, of_plan.get(plan.id, [])) for plan in plans]


async def update_meter(
    tx: Connection,
    tenant_id: UUID,
    meter_id: UUID,
    change: Renaming,
    cause: Cause,
    *,
    now: datetime,
) -> Meter:
    """The renamed meter; emits meter.updated. Raises MeterNotFound, EtagMismatch or Invalid."""
    change.check()
    meter = await _lock_meter(tx, tenant_id, meter_id)
    if change.etag and change.etag != etag_of(meter):
        raise EtagMismatch(metadata={"meter": encode(Prefix.METER, meter_id)})
    payload = payloads.MeterUpdated(meter_id=encode(Prefix.METER, meter_id), key=meter.key)
    name = change.display_name or meter.key
    return await _write_meter(tx, meter, name, meter.archived_at, payload, (cause, now))


async def archive_meter(
    tx: Connection, tenant_id: UUID, meter_id: UUID, cause: Cause, *, now: datetime
) -> Meter:
    """The archived meter; emits meter.archived, the first time. Raises MeterNotFound."""
    meter = await _lock_meter(tx, tenant_id, meter_id)
    if meter.archived_at is not None:
        return meter
    payload = payloads.MeterArchived(meter_id=encode(Prefix.METER, meter_id), key=meter.key)
    at = await business_time(tx, tenant_id, now)
    return await _write_meter(tx, meter, meter.display_name, at, payload, (cause, now))


async def update_plan(
    tx: Connection,
    tenant_id: UUID,
    plan_id: UUID,
    change: Renaming,
    cause: Cause,
    *,
    now: datetime,
) -> Plan:
    """The renamed plan; emits plan.updated. Raises PlanNotFound, EtagMismatch or Invalid."""
    change.check()
    plan = await _lock_plan(tx, tenant_id, plan_id)
    if change.etag and change.etag != etag_of(plan):
        raise EtagMismatch(metadata={"plan": encode(Prefix.PLAN, plan_id)})
    payload = payloads.PlanUpdated(plan_id=encode(Prefix.PLAN, plan_id), key=plan.key)
    name = change.display_name or plan.key
    return await _write_plan(tx, plan, name, plan.archived_at, payload, (cause, now))


async def archive_plan(
    tx: Connection, tenant_id: UUID, plan_id: UUID, cause: Cause, *, now: datetime
) -> Plan:
    """The archived plan; emits plan.archived, the first time. Raises PlanNotFound."""
    plan = await _lock_plan(tx, tenant_id, plan_id)
    if plan.archived_at is not None:
        return plan
    payload = payloads.PlanArchived(plan_id=encode(Prefix.PLAN, plan_id), key=plan.key)
    at = await business_time(tx, tenant_id, now)
    return await _write_plan(tx, plan, plan.display_name, at, payload, (cause, now))


async def _lock_meter(tx: Connection, tenant_id: UUID, meter_id: UUID) -> Meter:
    meter = await queries.catalog.lock_meter(tx, tenant_id=tenant_id, id=meter_id)
    if meter is None:
        raise catalog.MeterNotFound(metadata={"meter": encode(Prefix.METER, meter_id)})
    return meter


async def _lock_plan(tx: Connection, tenant_id: UUID, plan_id: UUID) -> Plan:
    plan = await queries.catalog.lock_plan(tx, tenant_id=tenant_id, id=plan_id)
    if plan is None:
        raise catalog.PlanNotFound(metadata={"plan": encode(Prefix.PLAN, plan_id)})
    return plan


async def _write_meter(
    tx: Connection,
    meter: Meter,
    display_name: str,
    archived_at: datetime | None,
    payload: Message,
    when: tuple[Cause, datetime],
) -> Meter:
    written = await queries.catalog.update_meter(
        tx,
        tenant_id=meter.tenant_id,
        id=meter.id,
        display_name=display_name,
        archived_at=archived_at,
    )
    assert written is not None, "the row is locked"
    await _tell(tx, written, encode(Prefix.METER, meter.id), payload, when)
    return written


async def _write_plan(
    tx: Connection,
    plan: Plan,
    display_name: str,
    archived_at: datetime | None,
    payload: Message,
    when: tuple[Cause, datetime],
) -> Plan:
    written = await queries.catalog.update_plan(
        tx,
        tenant_id=plan.tenant_id,
        id=plan.id,
        display_name=display_name,
        archived_at=archived_at,
    )
    assert written is not None, "the row is locked"
    await _tell(tx, written, encode(Prefix.PLAN, plan.id), payload, when)
    return written


async def _tell(
    tx: Connection,
    entry: Meter | Plan,
    resource: str,
    payload: Message,
    when: tuple[Cause, datetime],
) -> None:
    cause, now = when
    at = await business_time(tx, entry.tenant_id, now)
    await catalog.tell(tx, entry.tenant_id, resource, entry.version, payload, (cause, at, now))
