"""A tenant with a meter, a plan, customers and subscriptions, made by plain SQL, for the tests of the usage path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import asyncpg
import queries.rating
from tollway.event.v1 import event_pb2

from billing.domain.ids import Prefix, encode
from billing.runtime.db import Connection, Database
from billing.runtime.ids import new_id
from billing.services.actor import Cause
from billing.services.incoming import Incoming
from billing.services.period_rating import RatedPeriod, rate_periods
from billing.services.quantities import PeriodKey
from billing.services.usage_batch import BatchAnswer, UsageBatch
from billing.services.usage_checks import instant_us
from billing.services.usage_fold import fold
from billing.services.usage_ingest import record_usage
from tests.conftest import Databases


@dataclass(frozen=True, slots=True)
class Sub:
    """A subscription with one metered item."""

    id: UUID
    item_id: UUID
    customer_id: UUID


@dataclass(slots=True)
class World:
    """One tenant; `now` is machine and business time, and the beginning of time is its month's."""

    databases: Databases
    now: datetime
    tenant_id: UUID = field(default_factory=lambda: new_id(datetime.now(UTC)))
    plan_id: UUID = field(default_factory=lambda: new_id(datetime.now(UTC)))
    meters: dict[str, UUID] = field(default_factory=dict)
    customers: dict[str, UUID] = field(default_factory=dict)

    @property
    def worker(self) -> Database:
        return self.databases.worker

    def new(self) -> UUID:
        return new_id(self.now)

    async def execute(self, statement: str, *values: Any) -> None:
        async with self.worker.connection() as connection:
            await connection.execute(statement, *values)

    async def rows(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        async with self.worker.connection() as connection:
            return await connection.fetch(statement, *values)

    async def value(self, statement: str, *values: Any) -> Any:
        async with self.worker.connection() as connection:
            return await connection.fetchval(statement, *values)

    async def make(self) -> World:
        await self.execute(
            "INSERT INTO tenants VALUES ($1, 'Acme', 'test', 'UTC', 1, $2)",
            self.tenant_id,
            self.now,
        )
        await self.execute(
            "INSERT INTO plans VALUES ($1, $2, 'plan', 'Plan', 'EUR', 'month', 1, $3)",
            self.tenant_id,
            self.plan_id,
            self.now,
        )
        await self.meter("minutes", "sum")
        await self.customer("UA")
        return self

    async def meter(self, key: str, aggregation: str) -> UUID:
        self.meters[key] = self.new()
        await self.execute(
            "INSERT INTO meters VALUES ($1, $2, $3, $3, $4, NULL, 1, $5)",
            self.tenant_id,
            self.meters[key],
            key,
            aggregation,
            self.now,
        )
        return self.meters[key]

    async def customer(self, external_id: str) -> UUID:
        self.customers[external_id] = self.new()
        await self.execute(
            "INSERT INTO customers VALUES ($1, $2, $3, $3, 'UTC', 1, $4)",
            self.tenant_id,
            self.customers[external_id],
            external_id,
            self.now,
        )
        return self.customers[external_id]

    async def price(
        self, meter: str, model: str = "per_unit", config: str = '{"unit_amount": "0.10"}'
    ) -> UUID:
        price_id = self.new()
        await self.execute(
            "INSERT INTO prices VALUES ($1, $2, $3, $4, 'Price', 'EUR', $5, $6, 'in_arrears', 1, $7)",
            self.tenant_id,
            price_id,
            self.plan_id,
            self.meters[meter],
            model,
            config,
            self.now,
        )
        return price_id

    async def subscribe(
        self,
        customer: str,
        start: datetime,
        *,
        meter: str = "minutes",
        price_id: UUID | None = None,
        canceled_at: datetime | None = None,
        tx: Connection | None = None,
    ) -> Sub:
        """A subscription with one metered item and no usage period yet."""
        price_id = price_id or await self.price(meter)
        sub = Sub(self.new(), self.new(), self.customers[customer])
        async with self.worker.connection() as connection:
            await (tx or connection).execute(
                "INSERT INTO subscriptions (tenant_id, id, customer_id, plan_id, status, currency, billing_interval,"
                " alignment, time_zone, start_at, canceled_at, created_at)"
                " VALUES ($1, $2, $3, $4, 'active', 'EUR', 'month', 'anniversary', 'UTC', $5, $6, $5)",
                self.tenant_id,
                sub.id,
                sub.customer_id,
                self.plan_id,
                start,
                canceled_at,
            )
            await (tx or connection).execute(
                "INSERT INTO subscription_items VALUES ($1, $2, $3, $4, $5, $6, 1, $7)",
                self.tenant_id,
                sub.item_id,
                sub.id,
                sub.customer_id,
                price_id,
                self.meters[meter],
                start,
            )
        return sub

    async def period(
        self, sub: Sub, start: datetime, end: datetime, *, status: str = "reported"
    ) -> None:
        await self.execute(
            "INSERT INTO usage_periods (tenant_id, item_id, period_start, period_end, subscription_id, customer_id,"
            " meter_id, price_id, status, bill_kind, bill_boundary)"
            " SELECT tenant_id, id, $3, $4, subscription_id, customer_id, meter_id, price_id, $5, 'period', $4"
            " FROM subscription_items WHERE tenant_id = $1 AND id = $2",
            self.tenant_id,
            sub.item_id,
            start,
            end,
            status,
        )

    async def served(self, customer: str = "UA", **options: Any) -> Sub:
        """A subscription whose periods cover the last 40 days and the next 30."""
        start = self.now - timedelta(days=40)
        sub = await self.subscribe(customer, start, **options)
        await self.period(sub, start, self.now - timedelta(days=10))
        await self.period(sub, self.now - timedelta(days=10), self.now + timedelta(days=30))
        return sub

    def batch(self, *records: dict[str, Any], allow_backfill: bool = False) -> UsageBatch:
        """Records of the meter `minutes` and the customer UA, used now, unless they say otherwise."""

        def column(name: str, default: Any) -> list[Any]:
            return [record.get(name, default) for record in records]

        return UsageBatch(
            column("key", ""),
            column("meter", "minutes"),
            column("customer_id", ""),
            [record.get("customer", "" if "customer_id" in record else "UA") for record in records],
            [instant_us(at) if at is not None else None for at in column("at", self.now)],
            column("quantity", "1"),
            column("subscription", "") if any(column("subscription", "")) else None,
            column("properties", None) if any(column("properties", None)) else None,
            allow_backfill,
        )

    async def record(self, *records: dict[str, Any], allow_backfill: bool = False) -> BatchAnswer:
        cause = Cause("key_test", self.new())
        async with self.databases.api.transaction(self.tenant_id) as tx:
            return await record_usage(
                tx,
                self.tenant_id,
                self.batch(*records, allow_backfill=allow_backfill),
                cause,
                now=self.now,
            )

    async def reported(self) -> list[Incoming]:
        """All usage.reported events, as the router hands them over."""
        rows = await self.rows(
            "SELECT * FROM billing_events WHERE subject = 'usage.reported' ORDER BY id"
        )
        return [
            Incoming(
                row["id"],
                row["tenant_id"],
                row["subject"],
                row["resource"],
                row["resource_version"],
                0,
                event_pb2.Event.FromString(row["envelope"]),
            )
            for row in rows
        ]

    async def fold(self, events: list[Incoming] | None = None) -> set[UUID]:
        """Folds the events (all by default) in a transaction; returns those that wait."""
        if events is None:
            events = await self.reported()
        async with self.worker.transaction() as tx:
            return set(await fold(tx, events, self.now))

    async def buckets(self) -> dict[UUID, tuple[int, Decimal]]:
        """Records and quantity in the buckets, by item."""
        rows = await self.rows(
            "SELECT item_id, sum(records)::int AS n, sum(quantity_sum) AS total FROM usage_buckets GROUP BY item_id"
        )
        return {row["item_id"]: (row["n"], row["total"]) for row in rows}

    def subscription_text(self, sub: Sub) -> str:
        return encode(Prefix.SUBSCRIPTION, sub.id)


async def recorded_quantities(
    tx: Connection, keys: Sequence[PeriodKey]
) -> dict[PeriodKey, Fraction]:
    """What each usage period holds by its records, as it would be billed."""
    rows = await queries.rating.list_periods_to_rate(
        tx,
        tenant_ids=[key.tenant_id for key in keys],
        item_ids=[key.item_id for key in keys],
        period_starts=[key.period_start for key in keys],
    )
    rated = await rate_periods(tx, rows)
    return {key: one.quantity for key, one in rated.items() if isinstance(one, RatedPeriod)}


async def make_world(databases: Databases) -> World:
    """A tenant with the meter `minutes` (sum) and the customer UA."""
    now = databases.clock.now()
    return await World(databases, now).make()
