"""A small house for the tests of subscriptions and invoices: one tenant, real services, a plain router.

The router here takes the outbox in its order and hands each event to the consumers that want it, with the inbox, each
batch in one transaction. What a handler lets wait stays in the outbox for the next turn.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
from tollway.event.v1 import event_pb2

from billing.domain.errors import AlreadyExists
from billing.domain.ids import Prefix, encode
from billing.domain.pricing import BillingTiming
from billing.runtime.ids import new_id
from billing.services import catalog, customers, events, test_clock
from billing.services.actor import Cause
from billing.services.cycles import follow_subscription
from billing.services.incoming import Handler, Incoming
from billing.services.invoice_drafts import draft_for_cycles, note_rating
from billing.services.invoices import InvoiceView, get_invoice
from billing.services.rating import RatingSettings
from billing.services.subscription_lifecycle import start_due
from billing.services.subscriptions import NewSubscription, SubscriptionView, create_subscription
from billing.services.tenants import NewTenant, create_tenant
from billing.services.usage_batch import UsageBatch
from billing.services.usage_checks import instant_us
from billing.services.usage_fold import fold
from billing.services.usage_ingest import record_usage
from tests.conftest import Databases
from workers.clock import ClockSettings, ClockWorker
from workers.rating import RatingWorker
from workers.scheduler import Scheduler, SchedulerSettings

HANDLERS: Final[Mapping[str, Mapping[str, Handler]]] = {
    "subscription": {"subscription.created": start_due},
    "usage": {"usage.reported": fold},
    "scheduler": {
        "subscription.created": follow_subscription,
        "subscription.status.changed": follow_subscription,
    },
    "invoice": {"billing.cycle.closed": draft_for_cycles, "rating.completed": note_rating},
}
WANTED: Final = {consumer: list(subjects) for consumer, subjects in HANDLERS.items()}
TURNS_MAX: Final = 3000

_keys = itertools.count(1)


def utc(*parts: int) -> datetime:
    """An instant in UTC."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type] # numbers as datetime takes them


@dataclass(slots=True)
class Driver:
    """One tenant in test mode, and everything that acts on it."""

    databases: Databases
    tenant_id: UUID = field(default_factory=lambda: UUID(int=0))

    @property
    def now(self) -> datetime:
        """Machine time."""
        return self.databases.clock.now()

    def cause(self) -> Cause:
        return Cause("key_test", new_id(self.now))

    def scheduler(self, **settings: Any) -> Scheduler:
        return Scheduler(self.databases.worker, self.databases.clock, SchedulerSettings(**settings))

    def clock_worker(self, **settings: Any) -> ClockWorker:
        worker, clock = self.databases.worker, self.databases.clock
        return ClockWorker(worker, clock, WANTED, ClockSettings(**settings))

    async def rows(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        async with self.databases.worker.connection() as connection:
            return await connection.fetch(statement, *values)

    async def value(self, statement: str, *values: Any) -> Any:
        async with self.databases.worker.connection() as connection:
            return await connection.fetchval(statement, *values)

    async def execute(self, statement: str, *values: Any) -> None:
        async with self.databases.worker.connection() as connection:
            await connection.execute(statement, *values)

    # What a tenant does.

    async def found(self, clock_at: datetime | None = None, *, mode: str = "test") -> Driver:
        """Makes the tenant, with a test clock if `clock_at` is given."""
        async with self.databases.worker.transaction() as tx:
            tenant = await create_tenant(
                tx, NewTenant("Acme", mode, "UTC"), self.cause(), now=self.now
            )
        self.tenant_id = tenant.id
        if clock_at is not None:
            async with self.databases.api.transaction(tenant.id) as tx:
                await test_clock.create_test_clock(
                    tx, tenant.id, clock_at, self.cause(), now=self.now
                )
        return self

    async def customer(self, external_id: str = "UA", zone: str = "UTC") -> UUID:
        async with self.databases.api.transaction(self.tenant_id) as tx:
            draft = customers.NewCustomer(external_id, external_id, zone)
            made = await customers.create_customer(
                tx, self.tenant_id, draft, self.cause(), now=self.now
            )
        return made.id

    async def plan(
        self,
        key: str = "plan",
        *,
        fee: str = "",
        per_minute: str = "",
        interval: str = "month",
        currency: str = "USD",
        arrears_fee: str = "",
        **bounds: str,
    ) -> UUID:
        """A plan with a monthly fee, a fee in arrears, a price per minute of the meter `minutes`, as given.

        `bounds` are the minimum and maximum of the price per minute.
        """
        timings = ((fee, None), (arrears_fee, BillingTiming.IN_ARREARS))
        prices = [
            catalog.NewPrice("Fee", "", "", "flat", {"amount": amount}, timing)
            for amount, timing in timings
            if amount
        ]
        if per_minute:
            await self.meter("minutes")
            numbers = {"unit_amount": per_minute, **bounds}
            prices.append(catalog.NewPrice("Minutes", "minutes", "", "per_unit", numbers, None))
        async with self.databases.api.transaction(self.tenant_id) as tx:
            new = catalog.NewPlan(key, key, currency, interval)
            plan = await catalog.create_plan(tx, self.tenant_id, new, self.cause(), now=self.now)
            for price in prices:
                await catalog.create_price(
                    tx, self.tenant_id, plan, price, self.cause(), now=self.now
                )
        return plan.id

    async def meter(self, key: str) -> None:
        """Makes a meter that sums, unless it is there."""
        async with self.databases.api.transaction(self.tenant_id) as tx:
            with contextlib.suppress(AlreadyExists):
                new = catalog.NewMeter(key, key, "sum")
                await catalog.create_meter(tx, self.tenant_id, new, self.cause(), now=self.now)

    async def subscribe(
        self, customer: str = "UA", plan: str = "plan", **draft: Any
    ) -> SubscriptionView:
        async with self.databases.api.transaction(self.tenant_id) as tx:
            wanted = NewSubscription(external_customer_id=customer, plan_key=plan, **draft)
            return await create_subscription(tx, self.tenant_id, wanted, self.cause(), now=self.now)

    async def use(
        self, at: datetime, quantity: str = "1", customer: str = "UA", *, backfill: bool = False
    ) -> None:
        batch = UsageBatch(
            [f"key-{next(_keys)}"],
            ["minutes"],
            [""],
            [customer],
            [instant_us(at)],
            [quantity],
            allow_backfill=backfill,
        )
        async with self.databases.api.transaction(self.tenant_id) as tx:
            answer = await record_usage(tx, self.tenant_id, batch, self.cause(), now=self.now)
        assert not answer.verdicts, answer.verdicts

    # What the house does.

    async def deliver(self, consumers: Iterable[str] = HANDLERS) -> int:
        """Routes the outbox until nothing moves; returns how many events were taken."""
        chosen = list(consumers)
        taken = 0
        for _ in range(TURNS_MAX):
            done = await self._route(chosen)
            if done == 0:
                return taken
            taken += done
        raise AssertionError("the outbox never came to rest")

    async def _route(self, consumers: Sequence[str]) -> int:
        now = self.now
        async with self.databases.worker.transaction() as tx:
            rows = await tx.fetch(
                "SELECT e.* FROM outbox o JOIN billing_events e ON e.id = o.event_id ORDER BY o.position LIMIT 500"
            )
            arrived = [incoming_of(row) for row in rows]
            waiting: set[UUID] = set()
            for consumer in consumers:
                waiting |= await hand_over(tx, consumer, arrived, now)
            done = [event.event_id for event in arrived if event.event_id not in waiting]
            await tx.execute("DELETE FROM outbox WHERE event_id = ANY ($1)", done)
        return len(done)

    async def rate(self) -> None:
        """Lets the rating worker take up what the folds left behind."""
        worker = RatingWorker(self.databases.worker, self.databases.clock, RatingSettings())
        while await worker.step():
            pass

    async def advance(self, to: datetime) -> None:
        """Sends the test clock to `to` and works until it is there."""
        async with self.databases.api.transaction(self.tenant_id) as tx:
            await test_clock.advance_test_clock(tx, self.tenant_id, to, self.cause(), now=self.now)
        await self.walk()

    async def walk(self) -> None:
        """Works until the test clock is where it was sent."""
        clock = self.clock_worker()
        for _ in range(TURNS_MAX):
            await clock.step()
            await self.deliver()
            await self.rate()
            row = await self.clock()
            if row["status"] != "advancing":
                assert row["status"] == "ready", row["waiting_for"]
                return
        raise AssertionError(f"the clock never came to its target: {row['waiting_for']}")

    async def clock(self) -> asyncpg.Record:
        return (await self.rows("SELECT * FROM test_clocks WHERE tenant_id = $1", self.tenant_id))[
            0
        ]

    async def settle(self, scheduler: Scheduler | None = None) -> None:
        """Lets scheduler and router work until nothing is due and nothing is on its way."""
        scheduler = scheduler or self.scheduler()
        for _ in range(TURNS_MAX):
            if await self.deliver() + await scheduler.step() == 0:
                return
        raise AssertionError("something stays due for ever")

    async def make_final(self) -> None:
        """Lets the grace of every draft have passed, and finalizes."""
        await self.execute(
            "UPDATE invoices SET finalize_at = now() - interval '1 s' WHERE status = 'draft'"
        )
        await self.settle()

    # What there is.

    async def invoices(self) -> list[asyncpg.Record]:
        return await self.rows(
            "SELECT * FROM invoices WHERE tenant_id = $1 ORDER BY boundary, kind, subscription_id",
            self.tenant_id,
        )

    async def view(self, invoice_id: UUID) -> InvoiceView:
        async with self.databases.api.transaction(self.tenant_id, snapshot=True) as tx:
            return await get_invoice(tx, self.tenant_id, invoice_id)

    async def subjects(self, resource: str) -> list[str]:
        rows = await self.rows(
            "SELECT subject FROM billing_events WHERE resource = $1 ORDER BY resource_version, id",
            resource,
        )
        return [row["subject"] for row in rows]

    async def versions(self, resource: str) -> list[int]:
        rows = await self.rows(
            "SELECT resource_version FROM billing_events WHERE resource = $1 ORDER BY id", resource
        )
        return [row["resource_version"] for row in rows]

    async def book(self) -> list[tuple[Any, ...]]:
        """What the invoices say, without what depends on when they were made: ids, numbers, timestamps."""
        rows = await self.rows(
            "SELECT i.kind, i.boundary, i.status, i.total, l.line_number, l.kind AS line_kind,"
            " l.period_start, l.period_end, l.quantity, l.amount"
            " FROM invoices i LEFT JOIN invoice_lines l"
            " ON l.tenant_id = i.tenant_id AND l.invoice_id = i.id WHERE i.tenant_id = $1"
            " ORDER BY i.boundary, i.kind, i.subscription_id, l.line_number",
            self.tenant_id,
        )
        return [tuple(row) for row in rows]


def subscription_text(view: SubscriptionView) -> str:
    """The TypeID of a subscription."""
    return encode(Prefix.SUBSCRIPTION, view.row.id)


def incoming_of(row: asyncpg.Record) -> Incoming:
    """A row of the log as the router hands it over."""
    return Incoming(
        row["id"],
        row["tenant_id"],
        row["subject"],
        row["resource"],
        row["resource_version"],
        0,
        event_pb2.Event.FromString(row["envelope"]),
    )


async def hand_over(
    tx: Any, consumer: str, arrived: Sequence[Incoming], now: datetime
) -> set[UUID]:
    """Gives a consumer what it wants and has not had; returns what waits."""
    wanted = [event for event in arrived if event.subject in HANDLERS[consumer]]
    if not wanted:
        return set()
    fresh = await events.consume_once(
        tx, consumer, [(event.tenant_id, event.event_id) for event in wanted]
    )
    waiting: set[UUID] = set()
    for handler, group in itertools.groupby(
        [event for event in wanted if event.event_id in fresh],
        key=lambda event: HANDLERS[consumer][event.subject],
    ):
        waiting |= set(await handler(tx, list(group), now))
    await tx.execute(
        "DELETE FROM inbox WHERE consumer = $1 AND event_id = ANY ($2)", consumer, list(waiting)
    )
    return waiting


async def house_of(
    databases: Databases, clock_at: datetime | None = None, *, mode: str = "test"
) -> Driver:
    """A tenant, with a test clock if `clock_at` is given."""
    return await Driver(databases).found(clock_at, mode=mode)


HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
