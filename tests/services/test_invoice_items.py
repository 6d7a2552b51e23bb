"""Items that people add: on exactly one invoice that counts, or waiting for the next."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from uuid import UUID

import pytest

from billing.domain.errors import Invalid
from billing.services import invoice_items
from billing.services.finalize_now import InvoiceEmpty, finalize_invoice
from billing.services.invoice_items import InvoiceNotDraft, NewItem
from billing.services.invoice_voids import VoidOrder, void_invoice
from billing.services.manual_invoices import NewInvoice, create_invoice
from tests.conftest import Databases
from tests.driver import DAY, HOUR, Driver, house_of, utc

START = utc(2024, 5, 1)


async def add(house: Driver, subscription: UUID, units: str = "10.00", name: str = "Setup") -> UUID:
    async with house.databases.api.transaction(house.tenant_id) as tx:
        owner = await invoice_items.owner_of(
            tx, house.tenant_id, invoice_id=None, subscription_id=subscription
        )
        draft = NewItem(name, Decimal(1), Decimal(units))
        item = await invoice_items.add_item(tx, house.tenant_id, owner, draft, now=house.now)
    return item.id


async def remove(house: Driver, item: UUID) -> None:
    async with house.databases.api.transaction(house.tenant_id) as tx:
        await invoice_items.remove_item(tx, house.tenant_id, item, now=house.now)


async def test_a_manual_invoice_without_items_gets_no_number(databases: Databases) -> None:
    house = await house_of(databases, START)
    await house.customer("UA")
    customer = await house.value("SELECT id FROM customers")
    draft = NewInvoice(customer, "USD", "", None, [])
    async with house.databases.api.transaction(house.tenant_id) as tx:
        empty = await create_invoice(tx, house.tenant_id, draft, house.cause(), now=house.now)

    async def finalize() -> int:
        async with house.databases.api.transaction(house.tenant_id) as tx:
            final = await finalize_invoice(
                tx, house.tenant_id, empty.id, house.cause(), now=house.now
            )
        return final.total

    with pytest.raises(InvoiceEmpty):
        await finalize()
    async with house.databases.api.transaction(house.tenant_id) as tx:
        owner = await invoice_items.owner_of(
            tx, house.tenant_id, invoice_id=empty.id, subscription_id=None
        )
        item = NewItem("Setup", Decimal(1), Decimal(7))
        await invoice_items.add_item(tx, house.tenant_id, owner, item, now=house.now)
    assert await finalize() == 700


async def test_the_next_invoice_of_a_subscription_takes_what_waits_and_a_reissue_keeps_it(
    databases: Databases,
) -> None:
    house = await house_of(databases, START)
    await house.customer("UA")
    await house.plan(fee="49.00")
    subscription = (await house.subscribe()).row.id
    kept, dropped = await add(house, subscription), await add(house, subscription, "5.00")
    await remove(house, dropped)

    await house.advance(START + 2 * HOUR)

    (first,) = await house.invoices()
    assert first["total"] == 5900
    with pytest.raises(InvoiceNotDraft):
        await remove(house, kept)
    async with house.databases.api.transaction(house.tenant_id) as tx:
        voided = await void_invoice(
            tx, house.tenant_id, first["id"], VoidOrder(True, "wrong"), house.cause(), now=house.now
        )
    assert voided.replacement is not None
    again = await house.view(voided.replacement.id)
    assert [line.invoice_item_id for line in again.lines] == [None, kept]
    # On a draft it can be taken back again.
    await remove(house, kept)
    await house.advance(START + 5 * HOUR)
    assert [row["total"] for row in await house.invoices()] == [5900, 4900]


@pytest.mark.parametrize(("waits", "kind"), [(True, "activation"), (False, "period")])
async def test_an_activation_with_nothing_to_charge_has_an_invoice_for_an_item_that_waits(
    databases: Databases, waits: bool, kind: str
) -> None:
    house = await house_of(databases, START)
    await house.customer("UA")
    await house.plan(per_minute="0.10")
    subscription = (await house.subscribe()).row.id
    if waits:
        await add(house, subscription)
    await house.settle()
    assert [row["kind"] for row in await house.invoices()] == ["activation"] * waits
    if not waits:
        await add(house, subscription)

    await house.advance(START + 32 * DAY)

    (charged,) = [row for row in await house.invoices() if row["total"]]
    assert (charged["kind"], charged["total"]) == (kind, 1000)


async def test_items_that_come_and_go_while_invoices_become_final_are_billed_once(
    databases: Databases,
) -> None:
    house = await house_of(databases, mode="live")
    await house.customer("UA")
    await house.plan(fee="1.00")
    subscription = (await house.subscribe()).row.id
    await house.settle()

    async def churn() -> None:
        for n in range(6):
            item = await add(house, subscription, "10.00")
            if n % 2:
                try:
                    await remove(house, item)
                except InvoiceNotDraft:
                    return

    await asyncio.gather(churn(), churn(), house.make_final())
    # A finalizer passes over a subscription that somebody holds, and comes back a little later.
    await house.execute("UPDATE invoices SET retry_at = NULL WHERE status = 'draft'")
    await house.make_final()

    (invoice,) = await house.invoices()
    on_it = await house.value(
        "SELECT coalesce(sum(amount), 0)::bigint FROM invoice_items WHERE invoice_id = $1",
        invoice["id"],
    )
    lines = await house.value(
        "SELECT coalesce(sum(amount), 0)::bigint FROM invoice_lines WHERE kind = 'item'"
    )
    assert invoice["total"] == 100 + on_it == 100 + lines


async def test_a_canceled_subscription_has_no_next_invoice(databases: Databases) -> None:
    house = await house_of(databases, mode="live")
    await house.customer("UA")
    await house.plan(fee="1.00")
    subscription = (await house.subscribe()).row.id
    await house.execute(
        "UPDATE subscriptions SET status = 'canceled', canceled_at = now() WHERE id = $1",
        subscription,
    )
    with pytest.raises(Invalid, match="canceled"):
        await add(house, subscription)
