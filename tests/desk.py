"""What a tenant asks of its subscriptions, on top of the driver, and what was billed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from billing.services import catalog
from billing.services.prices import Successor, supersede_price
from billing.services.subscription_edits import Change, ItemChange, Proration
from billing.services.subscription_requests import (
    Asked,
    Ends,
    Later,
    Migration,
    Request,
    cancel_subscription,
    change_subscription,
    migrate_subscription,
    subscribe,
    uncancel_subscription,
)
from billing.services.subscriptions import NewItem, NewSubscription, SubscriptionView
from tests.driver import Driver

NO_END = Ends()


@dataclass(slots=True)
class Desk:
    """The subscriptions of a driver's tenant."""

    house: Driver

    def _tx(self) -> Any:
        return self.house.databases.api.transaction(self.house.tenant_id)

    def asking(self, subscription: UUID, later: Later | None = None) -> Request:
        house = self.house
        return Request(house.tenant_id, subscription, house.cause(), house.now, later)

    async def prices(self, plan: str = "plan") -> dict[str, UUID]:
        """The prices of a plan by name; of those with one name, the newest."""
        async with self._tx() as tx:
            _, prices = await catalog.get_plan(tx, self.house.tenant_id, key=plan)
        return {price.display_name: price.id for price in prices}

    async def price(self, name: str, meter: str = "", plan: str = "plan", **numbers: str) -> UUID:
        """One more price of a plan: per unit of a meter, or a flat one."""
        model = "per_unit" if meter else "flat"
        async with self._tx() as tx:
            found, _ = await catalog.get_plan(tx, self.house.tenant_id, key=plan)
            made = await catalog.create_price(
                tx,
                self.house.tenant_id,
                found,
                catalog.NewPrice(name, meter, "", model, numbers, None),
                self.house.cause(),
                now=self.house.now,
            )
        return made.id

    async def supersede(self, name: str, **numbers: str) -> UUID:
        """Another price in place of the one of that name, which new subscriptions do not get any more."""
        old = (await self.prices())[name]
        model = "per_unit" if name == "Minutes" else "flat"
        async with self._tx() as tx:
            new, _ = await supersede_price(
                tx,
                self.house.tenant_id,
                old,
                Successor(f"{name}, new", model, numbers),
                self.house.cause(),
                now=self.house.now,
            )
        return new.id

    async def subscribe(
        self,
        customer: str = "UA",
        plan: str = "plan",
        items: dict[str, str] | None = None,
        ends: Ends = NO_END,
        **draft: Any,
    ) -> SubscriptionView:
        """A subscription with items by the name of their price, and their quantities."""
        prices = await self.prices(plan)
        chosen = [NewItem(prices[name], quantity) for name, quantity in (items or {}).items()]
        wanted = NewSubscription(
            external_customer_id=customer, plan_key=plan, items=chosen, **draft
        )
        async with self._tx() as tx:
            return await subscribe(
                tx, self.house.tenant_id, wanted, ends, self.house.cause(), now=self.house.now
            )

    async def change(
        self,
        subscription: UUID,
        *items: ItemChange,
        later: Later | None = None,
        proration: Proration = Proration.AT_ONCE,
        **terms: Any,
    ) -> Asked:
        change = Change(items, proration=proration, **terms)
        async with self._tx() as tx:
            return await change_subscription(tx, self.asking(subscription, later), change)

    async def migrate(
        self, subscription: UUID, migration: Migration, later: Later | None = None
    ) -> Asked:
        async with self._tx() as tx:
            return await migrate_subscription(tx, self.asking(subscription, later), migration)

    async def cancel(
        self, subscription: UUID, later: Later | None = None, *, credit: bool = True
    ) -> Asked:
        async with self._tx() as tx:
            return await cancel_subscription(tx, self.asking(subscription, later), credit=credit)

    async def uncancel(self, subscription: UUID) -> Asked:
        async with self._tx() as tx:
            return await uncancel_subscription(tx, self.asking(subscription))

    async def lines(self, kind: str, boundary: datetime | None = None) -> list[tuple[str, int]]:
        """Description and amount of the final lines of invoices of a kind, at one boundary if it is given."""
        rows = await self.house.rows(
            "SELECT l.description, l.amount FROM invoices i"
            " JOIN invoice_lines l ON l.tenant_id = i.tenant_id AND l.invoice_id = i.id"
            " WHERE i.tenant_id = $1 AND i.kind = $2 AND ($3::timestamptz IS NULL OR i.boundary = $3)"
            " ORDER BY i.boundary, l.line_number",
            self.house.tenant_id,
            kind,
            boundary,
        )
        return [(row["description"], row["amount"]) for row in rows]

    async def keys(self) -> list[tuple[str, datetime]]:
        """Kind and boundary of every invoice."""
        return [(row["kind"], row["boundary"]) for row in await self.house.invoices()]

    async def usage_periods(self) -> list[tuple[datetime, datetime, str | None, datetime | None]]:
        rows = await self.house.rows(
            "SELECT * FROM usage_periods WHERE tenant_id = $1 ORDER BY item_id, period_start",
            self.house.tenant_id,
        )
        return [
            (row["period_start"], row["period_end"], row["bill_kind"], row["bill_boundary"])
            for row in rows
        ]

    async def owned(self) -> Sequence[tuple[datetime, datetime | None]]:
        """Timestamp and period of every record that counts, by timestamp."""
        rows = await self.house.rows(
            "SELECT used_at, period_start FROM effective_usage_records WHERE tenant_id = $1 ORDER BY used_at",
            self.house.tenant_id,
        )
        return [(row["used_at"], row["period_start"]) for row in rows]


def quantity(view: SubscriptionView) -> dict[UUID, Decimal]:
    """Quantities by item."""
    return {item.id: item.quantity for item in view.items}
