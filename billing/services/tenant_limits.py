"""The rim, beside its steps: a tenant's limits, and the count of its usage records that quotas are held against.

Invariant: a limit that no operator has set is the server's default. Counts are added apart from the transactions that
accept the records: those of a process's last seconds are missing when it is killed, and are there twice when the answer
to a commit is lost. Quotas can bear it; nothing is billed by these counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Final
from uuid import UUID

import queries.tenant_limits
from queries.models import TenantLimit as LimitsRow
from tollway.tenant.v1 import tenant_events_pb2

from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection
from billing.services import events, tenants
from billing.services.actor import Cause


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What one tenant may do. Rates and streams hold in each server process, quotas over all; a quota of 0 is none."""

    requests_per_second: int = 10_000
    records_per_second: int = 100_000
    streams: int = 100
    records_per_day: int = 0
    records_per_month: int = 0

    def with_overrides(self, overrides: Overrides | None) -> TenantLimits:
        """These, but for what an operator has set."""
        if overrides is None:
            return self
        given = {name: value for name, value in overrides.items() if value is not None}
        return replace(self, **given) if given else self


Overrides = Mapping[str, int | None]
CHANGEABLE: Final = tuple(field.name for field in dataclasses.fields(TenantLimits))


@dataclass(frozen=True, slots=True)
class Totals:
    """Usage records that were accepted on a day, and in its month up to it."""

    of_day: int = 0
    of_month: int = 0


async def get_overrides(tx: Connection, tenant_id: UUID) -> Overrides:
    """What an operator has set of the tenant's limits. Raises TenantNotFound."""
    await tenants.get_tenant(tx, tenant_id)
    row = await queries.tenant_limits.get_tenant_limits(tx, tenant_id=tenant_id)
    return {} if row is None else _overrides(row)


async def update_limits(
    tx: Connection, tenant_id: UUID, values: Overrides, cause: Cause, *, now: datetime
) -> Overrides:
    """Sets these fields, None for the default. What is set then. Emits tenant.limits.updated. Raises TenantNotFound."""
    await tenants.get_tenant(tx, tenant_id)
    await queries.tenant_limits.make_tenant_limits(tx, tenant_id=tenant_id, now=now)
    before = await queries.tenant_limits.lock_tenant_limits(tx, tenant_id=tenant_id)
    assert before is not None, "it was just made"
    wanted = {**_overrides(before), **values}
    after = await queries.tenant_limits.update_tenant_limits(
        tx,
        tenant_id=tenant_id,
        requests_per_second=wanted["requests_per_second"],
        records_per_second=wanted["records_per_second"],
        streams=wanted["streams"],
        records_per_day=wanted["records_per_day"],
        records_per_month=wanted["records_per_month"],
        now=now,
    )
    assert after is not None, "it is locked"
    await _tell(tx, after, values, cause, now)
    return _overrides(after)


async def add_counts(
    tx: Connection, counts: Mapping[tuple[UUID, date], int], day: date
) -> dict[UUID, Totals]:
    """Adds accepted records by tenant and day; the totals of these tenants as of `day`."""
    await queries.tenant_limits.add_record_counts(
        tx,
        tenant_ids=[tenant_id for tenant_id, _ in counts],
        days=[day for _, day in counts],
        counts=list(counts.values()),
    )
    return await totals_of(tx, {tenant_id for tenant_id, _ in counts}, day)


async def totals_of(tx: Connection, tenant_ids: Collection[UUID], day: date) -> dict[UUID, Totals]:
    """The totals as of `day`, of those tenants that have any."""
    rows = await queries.tenant_limits.list_record_totals(tx, tenant_ids=list(tenant_ids), day=day)
    return {row.tenant_id: Totals(row.of_day, row.of_month) for row in rows}


def _overrides(row: LimitsRow) -> Overrides:
    return {name: getattr(row, name) for name in CHANGEABLE}


async def _tell(
    tx: Connection, after: LimitsRow, values: Overrides, cause: Cause, now: datetime
) -> None:
    resource = encode(Prefix.TENANT, after.tenant_id)
    payload = tenant_events_pb2.TenantLimitsUpdated(tenant_id=resource, fields=sorted(values))
    event = events.NewEvent(after.tenant_id, resource, after.version, payload, now, cause)
    await events.emit(tx, [event], now=now)
