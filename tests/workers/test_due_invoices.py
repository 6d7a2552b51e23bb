"""invoice.due: once for each open invoice, when its time to pay has come, and for no other."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from tollway.event.v1 import event_pb2
from tollway.invoice.v1 import invoice_events_pb2

from billing.domain.ids import Prefix, encode
from billing.domain.money import Money
from billing.services.draft_claims import OnTestClocks
from billing.services.due_invoices import tell_due
from billing.services.invoice_voids import VoidOrder, void_invoice
from billing.services.payments import NewPayment, record_payment
from tests.conftest import Databases
from tests.driver import DAY, HOUR, Driver, house_of, utc

START = utc(2024, 3, 1, 5)
FINAL = START + HOUR
TOLD = "SELECT * FROM billing_events WHERE subject = 'invoice.due' ORDER BY id"


async def billed(
    databases: Databases, customers: int = 1, *, days: int | None = None, zone: str = "UTC"
) -> Driver:
    """A tenant with a test clock and one open invoice of a fee for each customer."""
    house = await house_of(databases, START)
    await house.plan(fee="10.00", interval="year")
    for n in range(customers):
        await house.customer(f"C{n}", zone)
        await house.execute("UPDATE customers SET payment_terms_days = $1", days)
        await house.subscribe(f"C{n}")
    await house.advance(FINAL)
    return house


async def pay(house: Driver, invoice: UUID, units: int) -> None:
    draft = NewPayment(invoice, Money(units, "USD"), f"bank-{units}")
    async with house.databases.api.transaction(house.tenant_id) as tx:
        await record_payment(tx, house.tenant_id, draft, house.cause(), now=house.now)


def payload_of(row: asyncpg.Record) -> invoice_events_pb2.InvoiceFellDue:
    payload = invoice_events_pb2.InvoiceFellDue()
    assert event_pb2.Event.FromString(row["envelope"]).data.Unpack(payload)
    return payload


async def test_an_open_invoice_tells_once_that_it_is_due_with_what_is_left_to_pay(
    databases: Databases,
) -> None:
    house = await billed(databases)
    (invoice,) = await house.invoices()
    await pay(house, invoice["id"], 300)

    await house.advance(FINAL + 30 * DAY - timedelta(seconds=1))
    assert not await house.rows(TOLD)
    await house.advance(FINAL + 90 * DAY)

    (event,) = await house.rows(TOLD)
    payload = payload_of(event)
    assert event["resource"] == payload.invoice_id == encode(Prefix.INVOICE, invoice["id"])
    assert payload.customer_id == encode(Prefix.CUSTOMER, invoice["customer_id"])
    assert payload.subscription_id == encode(Prefix.SUBSCRIPTION, invoice["subscription_id"])
    assert payload.number == invoice["number"]
    assert (payload.total.minor_units, payload.amount_due.minor_units) == (1000, 700)
    assert payload.due_time.ToDatetime(tzinfo=START.tzinfo) == FINAL + 30 * DAY
    assert event["occurred_at"] == FINAL + 30 * DAY
    versions = await house.versions(event["resource"])
    assert versions == list(range(1, len(versions) + 1))


@pytest.mark.parametrize(
    ("own", "tenants", "due"),
    [
        (None, None, FINAL + 30 * DAY),
        (None, 14, FINAL + 14 * DAY),
        (7, 14, FINAL + 7 * DAY),
        (0, 14, FINAL),
        (365, None, FINAL + 365 * DAY),
    ],
)
async def test_the_customers_terms_go_before_the_tenants_and_those_before_thirty_days(
    databases: Databases, own: int | None, tenants: int | None, due: datetime
) -> None:
    house = await house_of(databases, START)
    await house.plan(fee="10.00", interval="year")
    await house.customer()
    await house.execute("UPDATE customers SET payment_terms_days = $1", own)
    await house.execute(
        "INSERT INTO tenant_profiles (tenant_id, payment_terms_days, updated_at) VALUES ($1, $2, now())",
        house.tenant_id,
        tenants,
    )
    await house.subscribe()
    await house.advance(FINAL)
    await house.execute("UPDATE customers SET payment_terms_days = 99")

    (invoice,) = await house.invoices()
    assert invoice["due_at"] == due


async def test_a_day_to_pay_is_a_day_of_the_customers_calendar(databases: Databases) -> None:
    """Vienna's clocks go forward on the 31st of March: the invoice is due at the same time of day."""
    house = await billed(databases, days=30, zone="Europe/Vienna")
    (invoice,) = await house.invoices()
    assert invoice["due_at"] == FINAL + 30 * DAY - HOUR


async def test_paid_and_void_invoices_and_drafts_are_never_due(databases: Databases) -> None:
    house = await billed(databases, 3, days=5)
    open_, paid, void = (row["id"] for row in await house.invoices())
    await pay(house, paid, 1000)
    async with house.databases.api.transaction(house.tenant_id) as tx:
        order = VoidOrder(reissue=False)
        await void_invoice(tx, house.tenant_id, void, order, house.cause(), now=house.now)
    await house.customer("late")
    await house.subscribe("late")
    await house.deliver()
    await house.execute("UPDATE invoices SET finalize_at = NULL WHERE status = 'draft'")

    await house.advance(FINAL + 90 * DAY)

    assert [row["resource"] for row in await house.rows(TOLD)] == [encode(Prefix.INVOICE, open_)]


async def test_the_due_time_never_moves_and_being_told_is_never_taken_back(
    databases: Databases,
) -> None:
    house = await billed(databases, days=0)
    await house.advance(FINAL + DAY)
    for change in ("due_at = due_at + interval '1 day'", "due_at = NULL", "due_told_at = NULL"):
        with pytest.raises(asyncpg.RestrictViolationError, match="is final"):
            await house.execute(f"UPDATE invoices SET {change}")


async def live(databases: Databases, customers: int) -> Driver:
    """A tenant in machine time whose open invoices have all been due for a while."""
    house = await house_of(databases, mode="live")
    await house.plan(fee="10.00", interval="year")
    for n in range(customers):
        await house.customer(f"C{n}")
        await house.execute("UPDATE customers SET payment_terms_days = 0")
        await house.subscribe(f"C{n}")
    await house.settle()
    await house.execute(
        "UPDATE invoices SET finalize_at = now() - interval '1 s' WHERE status = 'draft'"
    )
    return house


async def test_schedulers_side_by_side_that_catch_up_tell_each_invoice_once(
    databases: Databases,
) -> None:
    house = await live(databases, 12)
    schedulers = [house.scheduler(batch_max=5) for _ in range(3)]

    for _ in range(30):
        done = await asyncio.gather(*(scheduler.step() for scheduler in schedulers))
        await house.deliver()
        if not any(done):
            break

    told = Counter(row["resource"] for row in await house.rows(TOLD))
    assert len(told) == 12
    assert set(told.values()) == {1}
    assert await tell_due(databases.worker, batch_max=50, now=house.now) == 0


async def test_what_is_due_on_a_test_clock_is_not_due_in_machine_time_nor_the_other_way(
    databases: Databases,
) -> None:
    house, other = await billed(databases, days=40), await live(databases, 1)
    await other.settle()
    counted: Any = (
        "SELECT count(*) FROM billing_events WHERE subject = 'invoice.due' AND tenant_id = $1"
    )
    assert await house.value(counted, other.tenant_id) == 1
    worker = databases.worker

    assert await tell_due(worker, batch_max=50, now=house.now + 1000 * DAY) == 0
    assert await tell_due(worker, batch_max=50, now=house.now, scope=OnTestClocks()) == 0
    assert await house.value(counted, house.tenant_id) == 0
