"""Usage path, step 1: the names in a batch, looked up in as few queries as there are kinds of them.

Invariant: only what never changes is remembered (which customer an external id names); whether a meter is archived is
read afresh in each batch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

import queries.usage

from billing.domain.errors import InvalidId
from billing.domain.ids import Prefix, decode
from billing.runtime.db import Connection
from billing.services.usage_batch import UsageBatch, Verdict, rejected

REMEMBERED_MAX: Final = 200_000
_NUL: Final = "\0"  # PostgreSQL's text cannot hold it, so no name has it


@dataclass(frozen=True, slots=True)
class MeterName:
    """What the checks need to know of a meter. A property that is named must be there in each record."""

    id: UUID
    aggregation: str
    archived: bool
    demands_name: bool = False  # of the subscription, by an item of some customer
    value_property: str | None = None
    unique_property: str | None = None


@dataclass(frozen=True, slots=True)
class Names:
    """What the texts of a batch name. A text that is in none of the mappings names nothing."""

    meters: Mapping[str, MeterName]
    external_customers: Mapping[str, UUID]
    customers: Mapping[str, UUID]
    # Subscription's id as sent -> (its id, its customer's id).
    subscriptions: Mapping[str, tuple[UUID, UUID]] = field(default_factory=dict)
    malformed: Mapping[str, Verdict] = field(default_factory=dict)
    # (customer, meter) -> when its items demand a subscription's name: [begin, end) in microseconds since 1970.
    naming: Mapping[tuple[UUID, UUID], Sequence[tuple[int, int]]] = field(default_factory=dict)

    def customer(self, batch: UsageBatch, place: int) -> UUID | None:
        """The customer of a record; None when it names none that is there."""
        return self.external_customers.get(
            batch.external_customer_ids[place]
        ) or self.customers.get(batch.customer_ids[place])


class Customers:
    """The customers that this process has met, at most REMEMBERED_MAX: ids and external ids never change hands."""

    def __init__(self) -> None:
        self._by_external: dict[UUID, dict[str, UUID]] = {}
        self._by_id: dict[UUID, dict[str, UUID]] = {}
        self._count = 0

    async def external(
        self, tx: Connection, tenant_id: UUID, external_ids: Collection[str]
    ) -> Mapping[str, UUID]:
        """The customers by the tenant's own ids; holds at least those asked for that exist."""
        known = self._by_external.setdefault(tenant_id, {})
        missing = [text for text in external_ids if text and text not in known and _NUL not in text]
        if not missing:
            return known
        rows = await queries.usage.list_customers_by_external_ids(
            tx, tenant_id=tenant_id, external_ids=missing
        )
        return self._remember(known, {row.external_id: row.id for row in rows})

    async def existing(
        self, tx: Connection, tenant_id: UUID, ids: Mapping[str, UUID]
    ) -> Mapping[str, UUID]:
        """The customers by id, as sent -> decoded; holds at least those asked for that exist."""
        known = self._by_id.setdefault(tenant_id, {})
        missing = {identity: text for text, identity in ids.items() if text not in known}
        if not missing:
            return known
        rows = await queries.usage.list_customers_by_ids(tx, tenant_id=tenant_id, ids=list(missing))
        return self._remember(known, {missing[identity]: identity for identity in rows})

    def _remember(self, known: dict[str, UUID], found: Mapping[str, UUID]) -> Mapping[str, UUID]:
        known.update(found)
        self._count += len(found)
        if self._count > REMEMBERED_MAX:
            self._by_external.clear()
            self._by_id.clear()
            self._count = 0
        return known


# One memory per process: immutable facts, and no connection.
_customers = Customers()


async def look_up(tx: Connection, tenant_id: UUID, batch: UsageBatch) -> Names:
    """The meters, customers and subscriptions that the batch names, in the tenant."""
    malformed: dict[str, Verdict] = {}
    customer_ids = _decoded(Prefix.CUSTOMER, set(batch.customer_ids), malformed)
    meters = await _meters(tx, tenant_id, set(batch.meter_keys))
    naming = any(meter.demands_name for meter in meters.values())
    names = Names(
        meters,
        await _customers.external(tx, tenant_id, set(batch.external_customer_ids)),
        await _customers.existing(tx, tenant_id, customer_ids),
        await _subscriptions(tx, tenant_id, set(batch.subscription_ids or ()), malformed),
        malformed,
    )
    return replace(names, naming=await _naming(tx, tenant_id, batch, names)) if naming else names


async def _meters(tx: Connection, tenant_id: UUID, keys: set[str]) -> dict[str, MeterName]:
    rows = await queries.usage.list_meters_by_keys(
        tx, tenant_id=tenant_id, keys=[key for key in keys if _NUL not in key]
    )
    return {
        row.key: MeterName(
            row.id,
            row.aggregation,
            row.archived_at is not None,
            row.demands_name,
            row.value_property,
            row.unique_property,
        )
        for row in rows
    }


async def _naming(
    tx: Connection, tenant_id: UUID, batch: UsageBatch, names: Names
) -> dict[tuple[UUID, UUID], list[tuple[int, int]]]:
    customers = {names.customer(batch, place) for place in range(len(batch))}
    rows = await queries.usage.list_naming_items(
        tx,
        tenant_id=tenant_id,
        meter_ids=[meter.id for meter in names.meters.values() if meter.demands_name],
        customer_ids=[one for one in customers if one is not None],
    )
    naming: dict[tuple[UUID, UUID], list[tuple[int, int]]] = {}
    for row in rows:
        naming.setdefault((row.customer_id, row.meter_id), []).append((row.begin_us, row.end_us))
    return naming


async def _subscriptions(
    tx: Connection, tenant_id: UUID, texts: set[str], malformed: dict[str, Verdict]
) -> dict[str, tuple[UUID, UUID]]:
    ids = _decoded(Prefix.SUBSCRIPTION, texts, malformed)
    if not ids:
        return {}
    rows = await queries.usage.list_subscriptions_by_ids(
        tx, tenant_id=tenant_id, ids=list(ids.values())
    )
    found = {row.id: (row.id, row.customer_id) for row in rows}
    return {text: found[identity] for text, identity in ids.items() if identity in found}


def _decoded(
    prefix: Prefix, texts: Collection[str], malformed: dict[str, Verdict]
) -> dict[str, UUID]:
    ids = {}
    for text in texts:
        try:
            if text:
                ids[text] = decode(prefix, text, path=f"{prefix.name.lower()}_id")
        except InvalidId as error:
            malformed[text] = rejected(error.reason, error.message)
    return ids
