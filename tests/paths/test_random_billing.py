"""Every path of money at once: random commands against the service and against a plain model, compared after each.

The model (billing_model.py) knows the rules of billing and nothing of how they are kept. What differs is a bug of one
of the two; the seed and the commands so far are in the failure.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, Final

import pytest

from billing.domain.decimals import decimal_text
from billing.domain.errors import CreditExceedsInvoice
from billing.domain.invoice import InvoiceStatus
from billing.domain.money import Money
from billing.services.credit_notes import NewCreditNote, create_credit_note
from billing.services.finalize_now import announce, finalize_invoice
from billing.services.invoice_preview import preview_invoice
from billing.services.invoice_voids import VoidOrder, void_invoice
from billing.services.payments import NewPayment, record_payment
from billing.services.subscription_edits import ItemChange
from billing.services.usage_amendments import Amendment, amend_usage, void_usage
from billing.services.usage_batch import UsageBatch
from billing.services.usage_checks import instant_us
from billing.services.usage_ingest import record_usage
from billing.services.usage_revisions import Author
from tests.conftest import LONG, Databases
from tests.desk import Desk
from tests.driver import DAY, Driver, house_of, utc
from tests.faults.dying import Dying
from tests.paths.billing_model import COMMITMENT, FEE, MINIMUM, PER_MINUTE, Bill, Books, Use
from tests.paths.billing_shown import expected_line, expected_summary, shown_line, summary

START: Final = utc(2024, 1, 10)
CUSTOMERS: Final = ("UA", "LH", "OS")
SEEDS: Final = range(60 if LONG else 3)
COMMANDS: Final = 60 if LONG else 26
MONTH: Final = timedelta(days=31)


class Twins:
    """The service and the model; each command does the same to both."""

    def __init__(self, house: Driver, chance: random.Random) -> None:
        self.house, self.chance = house, chance
        self.books = Books(START)
        self.keys = itertools.count(1)
        self.told: list[str] = []

    async def step(self) -> None:
        """One random command that is possible now, then the comparison."""
        commands: list[tuple[int, Callable[[], Awaitable[str]]]] = [
            (2, self.subscribe),
            (5, self.record),
            (2, self.amend),
            (2, self.take_back),
            (5, self.advance),
            (2, self.finalize),
            (3, self.void),
            (3, self.pay),
            (2, self.note),
            (2, self.cancel),
            (3, self.change),
            (2, self.die),
        ]
        weights = [weight for weight, _ in commands]
        (_, command) = self.chance.choices(commands, weights)[0]
        done = await command()
        self.told.append(done or f"{command.__name__}: nothing to do")
        await self.house.deliver()
        await self.compare()

    # The commands.

    async def subscribe(self) -> str:
        name = next((one for one in CUSTOMERS if one not in self.books.subscriptions), "")
        if name:
            await self.house.customer(name)
            await self.house.execute(
                "UPDATE customers SET tax_percent = 20 WHERE tenant_id = $1", self.house.tenant_id
            )
            await self.house.subscribe(name)
            self.books.subscribe(name)
        return f"subscribe {name}" if name else ""

    async def record(self) -> str:
        if not self.books.subscriptions:
            return ""
        use = Use(
            f"use-{next(self.keys)}",
            self.chance.choice(list(self.books.subscriptions)),
            self.some_instant(),
            self.some_quantity(),
        )
        if not self.is_covered(use.customer, use.at):
            return ""
        await self.send(use)
        self.books.record(use)
        return f"record {use}"

    async def amend(self) -> str:
        use = self.some_use()
        if use is None:
            return ""
        quantity, at = self.some_quantity(), self.some_instant()
        if not self.is_covered(use.customer, at):
            at = use.at
        change = Amendment({"quantity", "timestamp"}, decimal_text(quantity), instant_us(at))
        author = Author(self.house.cause(), "mended", allow_backfill=True)
        async with self.house.databases.api.transaction(self.house.tenant_id) as tx:
            await amend_usage(tx, self.house.tenant_id, use.key, change, author, now=self.house.now)
        self.books.touch(use)
        use.quantity, use.at = quantity, at
        self.books.touch(use)
        return f"amend {use}"

    async def take_back(self) -> str:
        use = self.some_use()
        if use is None:
            return ""
        author = Author(self.house.cause(), "wrong", allow_backfill=True)
        async with self.house.databases.api.transaction(self.house.tenant_id) as tx:
            await void_usage(tx, self.house.tenant_id, use.key, author, now=self.house.now)
        use.voided = True
        self.books.touch(use)
        return f"void {use}"

    async def advance(self) -> str:
        to = self.later()
        await self.house.advance(to)
        self.books.advance(to)
        return f"advance to {to}"

    async def die(self) -> str:
        """As advance, but what works is killed on the way and another one goes on."""
        to, at = self.later(), self.chance.randint(1, 400)
        try:
            await Dying(self.house.advance(to), at=at)
        except asyncio.CancelledError:
            if (await self.house.clock())["target_time"] == to:
                await self.house.walk()
            else:
                await self.house.advance(to)
        self.books.advance(to)
        return f"advance to {to}, killed at await {at}"

    async def finalize(self) -> str:
        bill = self.some_bill(InvoiceStatus.DRAFT)
        if bill is None:
            return ""
        identity, tenant = await self.identity(bill), self.house.tenant_id
        async with self.house.databases.api.transaction(tenant) as tx:
            await announce(tx, tenant, identity, self.house.now)
        async with self.house.databases.api.transaction(tenant) as tx:
            await finalize_invoice(tx, tenant, identity, self.house.cause(), now=self.house.now)
        self.books.finalize(bill)
        return f"finalize {bill.key} of {bill.customer}"

    async def void(self) -> str:
        bill = self.some_bill(InvoiceStatus.OPEN)
        if bill is None or bill.paid or bill.credited:
            return ""
        order = VoidOrder(reissue=self.chance.random() < 0.7)
        async with self.house.databases.api.transaction(self.house.tenant_id) as tx:
            await void_invoice(
                tx,
                self.house.tenant_id,
                await self.identity(bill),
                order,
                self.house.cause(),
                now=self.house.now,
            )
        self.books.void(bill, reissue=order.reissue)
        return f"void {bill.key} of {bill.customer}, {order}"

    async def cancel(self) -> str:
        names = [name for name in self.books.subscriptions if self.is_alterable(name)]
        if not names or len(self.books.subscriptions) < 2:
            return ""
        name = self.chance.choice(names)
        await Desk(self.house).cancel(await self.subscription(name))
        self.books.cancel(name)
        return f"cancel {name}"

    async def change(self) -> str:
        """Another quantity of the fee, at once."""
        names = [name for name in self.books.subscriptions if self.is_alterable(name)]
        if not names:
            return ""
        name = self.chance.choice(names)
        sub = self.books.subscriptions[name]
        quantity = self.chance.choice([one for one in (1, 2, 3) if one != sub.quantity])
        identity = await self.subscription(name)
        item = await self.house.value(
            "SELECT id FROM subscription_items WHERE subscription_id = $1 AND meter_id IS NULL",
            identity,
        )
        await Desk(self.house).change(identity, ItemChange(item, quantity=str(quantity)))
        self.books.change(name, quantity)
        return f"change {name} to {quantity}"

    async def pay(self) -> str:
        """A part of what is due, all of it, or more."""
        bill = self.some_bill(InvoiceStatus.OPEN, InvoiceStatus.PAID)
        if bill is None:
            return ""
        amount = self.chance.choice([1, bill.due // 2, bill.due, bill.due + 1234]) or 777
        reference = f"payment-{next(self.keys)}"
        draft = NewPayment(await self.identity(bill), Money(amount, "USD"), reference)
        async with self.house.databases.api.transaction(self.house.tenant_id) as tx:
            await record_payment(
                tx, self.house.tenant_id, draft, self.house.cause(), now=self.house.now
            )
        self.books.pay(bill, amount)
        return f"pay {amount} of {bill.key} of {bill.customer}"

    async def note(self) -> str:
        """A credit note of a part of one line, or of all that is left of it."""
        bill = self.some_bill(InvoiceStatus.OPEN, InvoiceStatus.PAID)
        lines = [line for line in bill.lines if line.amount > line.credited] if bill else []
        if bill is None or not lines:
            return ""
        line = self.chance.choice(lines)
        left = line.amount - line.credited
        amount = self.chance.choice([1, left // 2, left]) or 1
        number = next(n for n, one in enumerate(bill.lines, start=1) if one is line)
        draft = NewCreditNote(await self.identity(bill), {number: amount}, "goodwill")
        try:
            async with self.house.databases.api.transaction(self.house.tenant_id) as tx:
                await create_credit_note(
                    tx, self.house.tenant_id, draft, self.house.cause(), now=self.house.now
                )
        except CreditExceedsInvoice:
            # Only where other lines lower the total below this one.
            assert any(other.amount < 0 for other in bill.lines)
            return f"note {amount} of {bill.key}: more than the invoice"
        self.books.note(bill, line, amount)
        return f"note {amount} of line {number} of {bill.key} of {bill.customer}"

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

    def is_alterable(self, customer: str) -> bool:
        """Runs, and was not changed at this very instant."""
        sub = self.books.subscriptions[customer]
        return (
            not sub.canceled_at
            and sub.charged_from is not None
            and sub.charged_from < self.books.now
        )

    def is_covered(self, customer: str, at: datetime) -> bool:
        sub = self.books.subscriptions[customer]
        return sub.anchor <= at and (sub.canceled_at is None or at < sub.canceled_at)

    async def subscription(self, customer: str) -> Any:
        return await self.house.value(
            "SELECT s.id FROM subscriptions s JOIN customers c ON c.tenant_id = s.tenant_id AND c.id = s.customer_id"
            " WHERE s.tenant_id = $1 AND c.external_id = $2",
            self.house.tenant_id,
            customer,
        )

    async def identity(self, bill: Bill) -> Any:
        """The service's id of a bill: the n-th of its customer."""
        mine = [one for one in self.books.bills if one.customer == bill.customer]
        rows = await self.invoices(bill.customer)
        return rows[mine.index(bill)]["id"]

    async def send(self, use: Use) -> None:
        batch = UsageBatch(
            [use.key],
            ["minutes"],
            [""],
            [use.customer],
            [instant_us(use.at)],
            [decimal_text(use.quantity)],
            allow_backfill=True,
        )
        house = self.house
        async with house.databases.api.transaction(house.tenant_id) as tx:
            answer = await record_usage(tx, house.tenant_id, batch, house.cause(), now=house.now)
        assert not answer.verdicts, answer.verdicts

    # What must be equal.

    async def invoices(self, customer: str) -> list[Any]:
        return await self.house.rows(
            "SELECT i.* FROM invoices i JOIN customers c ON c.tenant_id = i.tenant_id AND c.id = i.customer_id"
            " WHERE i.tenant_id = $1 AND c.external_id = $2 ORDER BY i.id",
            self.house.tenant_id,
            customer,
        )

    async def compare(self) -> None:
        for customer in self.books.subscriptions:
            rows = await self.invoices(customer)
            bills = [bill for bill in self.books.bills if bill.customer == customer]
            assert [summary(row) for row in rows] == [expected_summary(bill) for bill in bills]
            for row, bill in zip(rows, bills, strict=True):
                await self.compare_lines(row, bill)
            await self.compare_credit(customer)
        await self.compare_numbers()

    async def compare_lines(self, row: Any, bill: Bill) -> None:
        """Of a draft, those that a preview shows."""
        house = self.house
        async with house.databases.api.transaction(house.tenant_id, snapshot=True) as tx:
            if bill.status == "draft":
                shown = await preview_invoice(tx, house.tenant_id, row["id"], now=house.now)
                expected = self.books.preview(bill)
            else:
                shown, expected = await house.view(row["id"]), bill.lines
        assert [shown_line(line) for line in shown.lines] == [
            expected_line(line) for line in expected
        ]

    async def compare_credit(self, customer: str) -> None:
        entries = await self.house.rows(
            "SELECT l.kind, l.amount, l.balance_after FROM credit_ledger l"
            " JOIN customers c ON c.tenant_id = l.tenant_id AND c.id = l.customer_id"
            " WHERE l.tenant_id = $1 AND c.external_id = $2 ORDER BY l.sequence",
            self.house.tenant_id,
            customer,
        )
        ledger = self.books.ledger[customer]
        assert [(row["kind"], row["amount"]) for row in entries] == ledger
        sums = list(itertools.accumulate(amount for _, amount in ledger))
        assert [row["balance_after"] for row in entries] == sums
        assert all(balance >= 0 for balance in sums)

    async def compare_numbers(self) -> None:
        """Without a gap, and in the order in which invoices became final."""
        rows = await self.house.rows(
            "SELECT number, finalized_at FROM invoices WHERE tenant_id = $1 AND number IS NOT NULL ORDER BY number",
            self.house.tenant_id,
        )
        assert [row["number"] for row in rows] == [f"INV-{n:06}" for n in range(1, len(rows) + 1)]
        stamps = [row["finalized_at"] for row in rows]
        assert stamps == sorted(stamps)


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_happens_invoices_and_credit_are_what_the_rules_say(
    databases: Databases, seed: int
) -> None:
    house = await house_of(databases, START)
    await house.plan(
        fee=decimal_text(FEE),
        per_minute=decimal_text(PER_MINUTE),
        minimum_amount=decimal_text(MINIMUM),
    )
    await house.execute("UPDATE plans SET commitment = $1::text::numeric", decimal_text(COMMITMENT))
    twins = Twins(house, random.Random(seed))
    try:
        for _ in range(COMMANDS):
            await twins.step()
    except Exception as error:
        raise AssertionError(f"seed {seed}:\n" + "\n".join(twins.told)) from error
