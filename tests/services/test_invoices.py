"""Invoices: previewed as they will be, numbered without a gap, and never changed again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from billing.domain.ids import Prefix, encode
from billing.domain.invoice import InvoiceStatus
from billing.runtime.ids import new_id
from billing.services.customers import CustomerNotFound
from billing.services.invoices import InvoiceFilter, InvoiceNotFound, get_invoice, list_invoices
from billing.services.operations_status import list_queues
from billing.services.subscriptions import SubscriptionNotFound
from tests.conftest import Databases
from tests.driver import DAY, HOUR, Driver, house_of, utc
from workers.metrics import SchedulerMetrics
from workers.scheduler import Scheduler, SchedulerSettings

START = utc(2024, 5, 1)
BOUNDARY = utc(2024, 6, 1)


async def drafted(databases: Databases, **plan: str) -> Driver:
    """A tenant whose clock stands half an hour after a boundary: one invoice is final, one a draft."""
    house = await house_of(databases, START)
    await house.customer("UA")
    await house.plan(**({"fee": "49.00", "per_minute": "0.10"} | plan))
    await house.subscribe()
    await house.advance(START + 20 * DAY)
    await house.use(START + 3 * DAY, "10.004")
    await house.use(START + 4 * DAY, "5")
    await house.advance(BOUNDARY + HOUR / 2)
    return house


async def test_a_preview_is_what_finalizing_gives(databases: Databases) -> None:
    house = await drafted(databases)
    draft = (await house.invoices())[-1]
    assert draft["status"] == "draft"
    await house.use(START + 5 * DAY, "0.35")
    await house.deliver()
    previewed = await house.view(draft["id"])

    await house.advance(BOUNDARY + 2 * HOUR)

    final = await house.view(draft["id"])
    assert [replace(line, meter_id=None) for line in previewed.lines] == list(final.lines)
    sums = ("subtotal", "total", "amount_due")
    assert [getattr(previewed.row, name) for name in sums] == [
        getattr(final.row, name) for name in sums
    ]
    # 15.354 minutes at 0.10 are 1.5354.
    assert [line.amount.minor_units for line in final.lines] == [154, 4900]
    assert final.lines[0].steps == [
        {"label": "units", "quantity": "15.354", "unit_amount": "0.1", "amount": "1.5354"}
    ]
    assert final.row.status == "open"
    assert final.row.number == "INV-000002"
    assert final.row.finalized_at == BOUNDARY + HOUR


async def test_the_trail_of_an_invoice_leads_from_the_cycle_to_its_final_state(
    databases: Databases,
) -> None:
    house = await drafted(databases)
    await house.advance(BOUNDARY + 2 * HOUR)
    invoice = (await house.invoices())[-1]

    trail = await house.rows(
        "SELECT * FROM billing_events WHERE correlation_id = $1 ORDER BY id",
        invoice["correlation_id"],
    )

    assert [row["subject"] for row in trail] == [
        "billing.cycle.closed",
        "invoice.generated",
        "usage.billed",
        "invoice.status.changed",
    ]
    assert {row["causation_id"] for row in trail[1:]} == {trail[0]["id"]}
    assert [row["occurred_at"] for row in trail] == [BOUNDARY] * 2 + [BOUNDARY + HOUR] * 2
    resource = encode(Prefix.INVOICE, invoice["id"])
    assert await house.versions(resource) == [1, 2]


async def test_a_zero_total_is_paid_at_once_and_tells_both_steps(databases: Databases) -> None:
    house = await house_of(databases, START)
    await house.customer("UA")
    await house.plan(per_minute="0.10")
    await house.subscribe()

    await house.advance(BOUNDARY + 2 * HOUR)

    # The activation has nothing to charge: no number is spent on it.
    (invoice,) = await house.invoices()
    assert [invoice[name] for name in ("kind", "status", "total", "number")] == [
        "period",
        "paid",
        0,
        "INV-000001",
    ]
    (line,) = (await house.view(invoice["id"])).lines
    assert not line.quantity
    assert not line.amount
    resource = encode(Prefix.INVOICE, invoice["id"])
    assert await house.subjects(resource) == ["invoice.generated", *["invoice.status.changed"] * 2]
    assert invoice["version"] == 3


async def test_a_draft_waits_for_usage_that_is_not_folded_yet(databases: Databases) -> None:
    house = await drafted(databases)
    await house.use(START + 6 * DAY, "100")
    # As if the cycle had been closed just now, behind that record.
    await house.execute(
        "UPDATE invoices SET finalize_at = $1, closed_at = $2 WHERE status = 'draft'",
        BOUNDARY,
        BOUNDARY + HOUR / 2,
    )

    await house.scheduler().step()
    draft = (await house.invoices())[-1]
    assert (draft["status"], draft["blocked_reason"]) == ("draft", "USAGE_PENDING")

    await house.deliver()
    await house.execute("UPDATE invoices SET retry_at = NULL")
    await house.scheduler().step()
    final = (await house.invoices())[-1]
    assert (final["status"], final["blocked_reason"], final["total"]) == ("open", None, 4900 + 1150)
    assert (
        await house.value("SELECT count(*) FROM usage_periods WHERE closing_until IS NOT NULL") == 0
    )


async def test_a_price_that_cannot_be_rated_blocks_its_own_draft_alone(
    databases: Databases,
) -> None:
    house = await house_of(databases, START)
    await house.plan(fee="1.00")
    await house.plan("broken", fee="2.00")
    for customer, plan in (("UA", "plan"), ("LH", "broken")):
        await house.customer(customer)
        await house.subscribe(customer, plan)
    await house.execute(
        "UPDATE prices SET config = '{}' WHERE plan_id = (SELECT id FROM plans WHERE key = 'broken')"
    )
    await house.deliver()
    await house.execute("UPDATE invoices SET finalize_at = $1", START)
    await house.scheduler().step()

    states = await house.rows("SELECT status, blocked_reason FROM invoices ORDER BY status")
    assert [tuple(row) for row in states] == [("draft", "RATING_FAILED"), ("open", None)]
    broken = next(row for row in await house.invoices() if row["status"] == "draft")
    assert (await house.view(broken["id"])).row.blocked_reason == "RATING_FAILED"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE invoices SET total = 1 WHERE number = 'INV-000001'",
        "UPDATE invoices SET number = 'INV-000009' WHERE number = 'INV-000001'",
        "UPDATE invoices SET status = 'draft', number = NULL WHERE number = 'INV-000001'",
        "UPDATE invoices SET boundary = now() WHERE number = 'INV-000001'",
        "DELETE FROM invoices WHERE number = 'INV-000001'",
        "UPDATE invoices SET created_at = now() WHERE number = 'INV-000001'",
        "UPDATE invoices SET finalize_at = now() WHERE number = 'INV-000001'",
        "UPDATE invoice_lines SET amount = 1",
        "DELETE FROM invoice_lines",
        "INSERT INTO invoice_lines SELECT (jsonb_populate_record(l, '{\"line_number\": 9}')).* FROM invoice_lines l",
    ],
)
async def test_a_final_invoice_never_changes_whoever_asks(
    databases: Databases, statement: str
) -> None:
    house = await drafted(databases)
    before = await house.book()
    with pytest.raises(asyncpg.RestrictViolationError):
        await house.execute(statement)
    assert await house.book() == before


async def test_invoices_are_listed_newest_first_and_by_what_is_asked(databases: Databases) -> None:
    house = await house_of(databases, START)
    await house.plan(fee="1.00")
    for customer in ("UA", "LH"):
        await house.customer(customer)
        await house.subscribe(customer)
    await house.advance(BOUNDARY + HOUR / 2)
    rows = sorted(await house.invoices(), key=lambda row: row["id"].int, reverse=True)
    tenant = house.tenant_id

    async with databases.api.transaction(tenant) as tx:
        everything = InvoiceFilter()
        page = await list_invoices(tx, tenant, everything, before=None, limit=3)
        rest = await list_invoices(tx, tenant, everything, before=page[-1].id, limit=3)
        drafts = InvoiceFilter(status=InvoiceStatus.DRAFT, customer_id=rows[0]["customer_id"])
        found = await list_invoices(tx, tenant, drafts, before=None, limit=3)
        with pytest.raises(CustomerNotFound):
            nobody = InvoiceFilter(customer_id=new_id(house.now))
            await list_invoices(tx, tenant, nobody, before=None, limit=3)
        with pytest.raises(SubscriptionNotFound):
            nothing = InvoiceFilter(subscription_id=new_id(house.now))
            await list_invoices(tx, tenant, nothing, before=None, limit=3)

    assert [row.id for row in (*page, *rest)] == [row["id"] for row in rows]
    assert [(row.customer_id, row.status) for row in found] == [(rows[0]["customer_id"], "draft")]


async def test_a_tenant_sees_no_invoice_of_another(databases: Databases) -> None:
    house = await drafted(databases)
    other = await house_of(databases, START)
    identity = (await house.invoices())[0]["id"]
    async with databases.api.transaction(other.tenant_id, snapshot=True) as tx:
        for tenant in (other.tenant_id, house.tenant_id):
            with pytest.raises(InvoiceNotFound):
                await get_invoice(tx, tenant, identity)


async def test_a_preview_writes_nothing(databases: Databases) -> None:
    house = await drafted(databases)
    draft = (await house.invoices())[-1]
    periods = "SELECT * FROM usage_periods ORDER BY item_id, period_start"
    before = await house.rows(periods), await house.invoices()

    # The transaction of a preview is read-only, so a write would have raised.
    first = await house.view(draft["id"])
    assert await house.view(draft["id"]) == first
    assert (await house.rows(periods), await house.invoices()) == before


async def test_the_grace_is_a_setting_and_is_stored_with_the_draft(databases: Databases) -> None:
    house = await drafted(databases)
    assert [row["finalize_at"] - row["closed_at"] for row in await house.invoices()] == [
        timedelta(hours=1)
    ] * 2


async def test_blocked_drafts_are_counted_by_their_reason(databases: Databases) -> None:
    house = await drafted(databases)
    await house.execute(
        "UPDATE invoices SET blocked_reason = 'RATING_FAILED' WHERE status = 'draft'"
    )
    registry = CollectorRegistry()
    metrics = SchedulerMetrics(registry)
    await Scheduler(databases.worker, databases.clock, SchedulerSettings(), metrics).step()

    def blocked(reason: str) -> float | None:
        return registry.get_sample_value("tollway_invoices_blocked", {"reason": reason})

    assert (blocked("RATING_FAILED"), blocked("USAGE_PENDING")) == (1, 0)
    async with databases.api.transaction(house.tenant_id) as tx:
        queues = {queue.name: queue.pending for queue in await list_queues(tx)}
    assert queues["invoices.blocked"] == 1
