"""The service and the plain model side by side: what random commands choose from, and what must be equal after each."""

from __future__ import annotations

import itertools
import random
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

from billing.domain.decimals import decimal_text
from billing.domain.invoice import InvoiceStatus
from billing.runtime.db import Connection
from billing.services.customers import CustomerChange, update_customer
from billing.services.discounts import list_discounts
from billing.services.invoice_preview import preview_invoice
from billing.services.usage_batch import UsageBatch
from billing.services.usage_checks import instant_us
from billing.services.usage_ingest import record_usage
from tests.driver import DAY, Driver, utc
from tests.paths.billing_facts import Bill, Discount, Scheduled, Subscription, Use
from tests.paths.billing_lines import times_used
from tests.paths.billing_model import PLANS, Books
from tests.paths.billing_shown import expected_line, expected_summary, shown_line, summary

START: Final = utc(2024, 1, 10)
MONTH: Final = timedelta(days=31)


class Twins:
    """The service and the model; each command does the same to both."""

    def __init__(self, house: Driver, chance: random.Random) -> None:
        self.house, self.chance = house, chance
        self.books = Books(START, {plan.key: plan for plan in PLANS})
        self.keys = itertools.count(1)
        # The service's ids of what the model knows.
        self.subscriptions: dict[Subscription, UUID] = {}
        self.scheduled: dict[Scheduled, UUID] = {}
        self.discounts: dict[Discount, UUID] = {}

    @property
    def tenant_id(self) -> UUID:
        return self.house.tenant_id

    def transaction(self, *, snapshot: bool = False) -> AbstractAsyncContextManager[Connection]:
        return self.house.databases.api.transaction(self.tenant_id, snapshot=snapshot)

    # What they choose from.

    def later(self) -> datetime:
        """Some hours or weeks on; never at an instant at which something falls due."""
        days = self.chance.choice([0, 0, 3, 10, 25, 40])
        minutes = self.chance.randint(7, 300)
        return self.books.now + days * DAY + timedelta(minutes=minutes, seconds=13)

    def some_instant(self) -> datetime:
        """Now, or some time back: often in a period that is billed."""
        back = self.chance.choice([timedelta(), timedelta(hours=3), 5 * DAY, MONTH, 2 * MONTH])
        return max(self.books.now - back - timedelta(minutes=self.chance.randint(0, 90)), START)

    def some_quantity(self) -> Fraction:
        return Fraction(self.chance.choice(["0", "0.5", "13", "7.007", "250", "1000.25"]))

    def some_use(self) -> Use | None:
        uses = [use for use in self.books.uses.values() if not use.voided]
        return self.chance.choice(uses) if uses else None

    def some_bill(self, *statuses: InvoiceStatus) -> Bill | None:
        bills = [bill for bill in self.books.bills if bill.status in statuses]
        return self.chance.choice(bills) if bills else None

    def some_active(self) -> Subscription | None:
        subs = [sub for sub in self.books.subscriptions if not sub.canceled_at]
        return self.chance.choice(subs) if subs else None

    async def customer(self, name: str) -> Any:
        return await self.house.value(
            "SELECT id FROM customers WHERE tenant_id = $1 AND external_id = $2",
            self.tenant_id,
            name,
        )

    async def identity(self, bill: Bill) -> Any:
        """The service's id of a bill: the n-th of its customer."""
        mine = [one for one in self.books.bills if one.customer == bill.customer]
        rows = await self.invoices(bill.customer)
        return rows[mine.index(bill)]["id"]

    async def tax(self, name: str, percent: str) -> None:
        """Gives a customer a tax of its own, or takes it away."""
        house, own = self.house, Decimal(percent) if percent else None
        change = CustomerChange(await self.customer(name), {"tax_percent": own})
        async with self.transaction() as tx:
            await update_customer(tx, self.tenant_id, change, house.cause(), now=house.now)
        self.books.taxes[name] = Fraction(percent) if percent else None

    async def send(self, use: Use) -> None:
        batch = UsageBatch(
            [use.key],
            [use.meter],
            [""],
            [use.customer],
            [instant_us(use.at)],
            [decimal_text(use.quantity)],
            allow_backfill=True,
        )
        house = self.house
        async with self.transaction() as tx:
            answer = await record_usage(tx, self.tenant_id, batch, house.cause(), now=house.now)
        assert not answer.verdicts, answer.verdicts

    # What must be equal.

    async def invoices(self, customer: str) -> list[Any]:
        return await self.house.rows(
            "SELECT i.* FROM invoices i JOIN customers c ON c.tenant_id = i.tenant_id AND c.id = i.customer_id"
            " WHERE i.tenant_id = $1 AND c.external_id = $2 ORDER BY i.id",
            self.tenant_id,
            customer,
        )

    async def compare(self) -> None:
        for customer in self.books.ledger:
            rows = await self.invoices(customer)
            bills = [bill for bill in self.books.bills if bill.customer == customer]
            assert [summary(row) for row in rows] == [expected_summary(bill) for bill in bills]
            for row, bill in zip(rows, bills, strict=True):
                await self.compare_lines(row, bill)
            await self.compare_credit(customer)
            await self.compare_discounts(customer)
        await self.compare_subscriptions()
        await self.compare_numbers()

    async def compare_lines(self, row: Any, bill: Bill) -> None:
        """Of a draft, those that a preview shows."""
        if bill.status == "draft":
            async with self.transaction(snapshot=True) as tx:
                shown = await preview_invoice(tx, self.tenant_id, row["id"], now=self.house.now)
            expected = self.books.preview(bill)
        else:
            shown, expected = await self.house.view(row["id"]), bill.lines
        assert [shown_line(line) for line in shown.lines] == [
            expected_line(line) for line in expected
        ]

    async def compare_credit(self, customer: str) -> None:
        entries = await self.house.rows(
            "SELECT l.kind, l.amount, l.balance_after FROM credit_ledger l"
            " JOIN customers c ON c.tenant_id = l.tenant_id AND c.id = l.customer_id"
            " WHERE l.tenant_id = $1 AND c.external_id = $2 ORDER BY l.sequence",
            self.tenant_id,
            customer,
        )
        ledger = self.books.ledger[customer]
        assert [(row["kind"], row["amount"]) for row in entries] == ledger
        sums = list(itertools.accumulate(amount for _, amount in ledger))
        assert [row["balance_after"] for row in entries] == sums
        assert all(balance >= 0 for balance in sums)

    async def compare_discounts(self, customer: str) -> None:
        """How many of their periods are used up."""
        async with self.transaction() as tx:
            found = await list_discounts(
                tx, self.tenant_id, await self.customer(customer), before=None, limit=100
            )
        given = [one for one in self.books.discounts if one.customer == customer]
        expected = [(times_used(self.books, one), one.ended) for one in reversed(given)]
        assert [(one.uses, one.row.ended_at is not None) for one in found] == expected

    async def compare_subscriptions(self) -> None:
        """The periods that they are in or ended in, and what became of what was put off."""
        rows = await self.house.rows(
            "SELECT id, canceled_at, period_start, period_end FROM subscriptions WHERE tenant_id = $1",
            self.tenant_id,
        )
        found = {row["id"]: tuple(row)[1:] for row in rows}
        for sub, identity in self.subscriptions.items():
            canceled_at, start, end = found[identity]
            assert (canceled_at, start) == (sub.canceled_at, sub.cycle.start)
            assert canceled_at or end == sub.cycle.end
        rows = await self.house.rows(
            "SELECT id, status FROM scheduled_changes WHERE tenant_id = $1", self.tenant_id
        )
        expected = {identity: one.status for one, identity in self.scheduled.items()}
        assert {row["id"]: row["status"] for row in rows} == expected

    async def compare_numbers(self) -> None:
        """Without a gap, and in the order in which invoices became final."""
        rows = await self.house.rows(
            "SELECT number, finalized_at FROM invoices WHERE tenant_id = $1 AND number IS NOT NULL ORDER BY number",
            self.tenant_id,
        )
        assert [row["number"] for row in rows] == [f"INV-{n:06}" for n in range(1, len(rows) + 1)]
        stamps = [row["finalized_at"] for row in rows]
        assert stamps == sorted(stamps)
