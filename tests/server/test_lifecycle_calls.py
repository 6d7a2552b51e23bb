"""Lifecycles asked for by name: every step of the tables that is allowed is taken, every other is refused."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tollway.invoice.v1 import invoice_service_pb2 as invoices
from tollway.invoice.v1 import payment_service_pb2 as payments
from tollway.rating.v1 import rating_service_pb2 as rating
from tollway.type.v1.money_pb2 import Money
from tollway.usage.v1 import usage_service_pb2 as usage

from billing.domain.ids import Prefix, decode, encode
from billing.services import test_clock
from tests.driver import DAY, HOUR, Driver, subscription_text, utc
from tests.server.rim import Rim

START = utc(2024, 5, 1)
JUNE = utc(2024, 6, 1)
INVOICES = "/tollway.invoice.v1.InvoiceService/"
USAGE = "/tollway.usage.v1.UsageService/ApplyLifecycle"


async def metered(rim: Rim, **draft: Any) -> tuple[Driver, str]:
    """Acme with a test clock and one subscription whose usage is folded and not rated; its id."""
    house = Driver(rim.databases, rim.acme.id)
    async with rim.databases.api.transaction(rim.acme.id) as tx:
        await test_clock.create_test_clock(tx, rim.acme.id, START, house.cause(), now=house.now)
    await house.customer("UA")
    await house.plan(per_minute="0.10")
    view = await house.subscribe(**draft)
    await house.deliver()
    await house.use(START, "50")
    await house.deliver()
    return house, subscription_text(view)


async def item_of(house: Driver) -> str:
    return encode(Prefix.SUBSCRIPTION_ITEM, await house.value("SELECT id FROM subscription_items"))


def step(
    item: str, action: usage.UsagePeriodAction.ValueType, start: datetime = START
) -> usage.ApplyLifecycleRequest:
    request = usage.ApplyLifecycleRequest(subscription_item_id=item, action=action)
    request.period_start_time.FromDatetime(start)
    return request


async def invoice_of(house: Driver, boundary: datetime) -> str:
    found = "SELECT id FROM invoices WHERE boundary = $1 AND status <> 'void'"
    return encode(Prefix.INVOICE, await house.value(found, boundary))


async def move(
    rim: Rim, invoice: str, action: invoices.InvoiceAction.ValueType
) -> invoices.ApplyLifecycleResponse:
    request = invoices.ApplyLifecycleRequest(invoice_id=invoice, action=action)
    answer: invoices.ApplyLifecycleResponse = await rim.call(INVOICES + "ApplyLifecycle", request)
    return answer


async def test_a_usage_period_is_rated_billed_and_reopened_with_its_invoice(rim: Rim) -> None:
    house, subscription = await metered(rim)
    item = await item_of(house)
    early = await rim.refused(USAGE, step(item, usage.USAGE_PERIOD_ACTION_BILL))
    assert (early.reason, early.metadata) == ("BILLED_BY_INVOICE", {"invoice": ""})
    early = await rim.refused(USAGE, step(item, usage.USAGE_PERIOD_ACTION_REOPEN))
    assert early.reason == "INVALID_TRANSITION"

    rated = (await rim.call(USAGE, step(item, usage.USAGE_PERIOD_ACTION_RATE))).usage_period

    assert rated.status == usage.USAGE_PERIOD_STATUS_RATED
    assert rated.billable
    charges = await rim.call(
        "/tollway.rating.v1.RatingService/GetCharges",
        rating.GetChargesRequest(subscription_id=subscription),
    )
    (shown,) = charges.charges
    assert (shown.amount.minor_units, shown.period) == (500, rated.period)
    assert (await house.subjects(subscription))[-2:] == ["usage.rated", "rating.completed"]
    again = await rim.refused(USAGE, step(item, usage.USAGE_PERIOD_ACTION_RATE))
    assert again.reason == "INVALID_TRANSITION"
    empty = await rim.refused(USAGE, step(item, usage.USAGE_PERIOD_ACTION_RATE, JUNE))
    assert empty.reason == "NOTHING_TO_RATE"
    none = await rim.refused(USAGE, step(item, usage.USAGE_PERIOD_ACTION_RATE, JUNE + HOUR))
    assert none.reason == "USAGE_PERIOD_NOT_FOUND"

    await house.advance(JUNE + HOUR / 2)
    draft = await invoice_of(house, JUNE)
    refused = await rim.refused(USAGE, step(item, usage.USAGE_PERIOD_ACTION_BILL))
    assert (refused.reason, refused.metadata) == ("BILLED_BY_INVOICE", {"invoice": draft})
    await move(rim, draft, invoices.INVOICE_ACTION_FINALIZE)
    for action in (usage.USAGE_PERIOD_ACTION_BILL, usage.USAGE_PERIOD_ACTION_RATE):
        assert (await rim.refused(USAGE, step(item, action))).reason == "INVALID_TRANSITION"

    reopened = (await rim.call(USAGE, step(item, usage.USAGE_PERIOD_ACTION_REOPEN))).usage_period

    assert reopened.status == usage.USAGE_PERIOD_STATUS_REPORTED
    decoded = decode(Prefix.INVOICE, draft)
    assert await house.value("SELECT status FROM invoices WHERE id = $1", decoded) == "void"
    await house.advance(JUNE + DAY)
    final = await move_refused(rim, await invoice_of(house, JUNE))
    assert final.total.minor_units == 500


async def move_refused(rim: Rim, invoice: str) -> invoices.Invoice:
    """An invoice that is final again, and cannot be so twice."""
    request = invoices.ApplyLifecycleRequest(
        invoice_id=invoice, action=invoices.INVOICE_ACTION_FINALIZE
    )
    assert (await rim.refused(INVOICES + "ApplyLifecycle", request)).reason == "INVALID_TRANSITION"
    wanted = invoices.GetInvoiceRequest(invoice_id=invoice)
    final: invoices.Invoice = (await rim.call(INVOICES + "GetInvoice", wanted)).invoice
    return final


async def test_the_usage_of_a_trial_is_rated_and_never_billed(rim: Rim) -> None:
    house, _ = await metered(rim, trial_days=9)
    item = await item_of(house)

    rated = (await rim.call(USAGE, step(item, usage.USAGE_PERIOD_ACTION_RATE))).usage_period

    assert (rated.status, rated.billable) == (usage.USAGE_PERIOD_STATUS_RATED, False)
    refused = await rim.refused(USAGE, step(item, usage.USAGE_PERIOD_ACTION_BILL))
    assert (refused.reason, refused.metadata) == ("BILLED_BY_INVOICE", {"invoice": ""})


async def test_a_period_that_cannot_be_rated_says_why_and_stays_as_it_is(rim: Rim) -> None:
    house, _ = await metered(rim)
    item = await item_of(house)
    await house.execute("UPDATE prices SET config = '{}'")

    refused = await rim.refused(USAGE, step(item, usage.USAGE_PERIOD_ACTION_RATE))

    assert (refused.reason, refused.metadata["cause"]) == ("RATING_FAILED", "INVALID_PRICE")
    assert await house.value("SELECT count(*) FROM usage_periods WHERE status <> 'reported'") == 0


async def test_an_invoice_goes_through_its_states_by_name_and_no_other_way(rim: Rim) -> None:
    house, _ = await metered(rim)
    await house.advance(JUNE + HOUR / 2)
    draft = await invoice_of(house, JUNE)
    for action in (invoices.INVOICE_ACTION_SETTLE, invoices.INVOICE_ACTION_VOID):
        request = invoices.ApplyLifecycleRequest(invoice_id=draft, action=action)
        refused = await rim.refused(INVOICES + "ApplyLifecycle", request)
        assert refused.reason == "INVALID_TRANSITION"

    opened = (await move(rim, draft, invoices.INVOICE_ACTION_FINALIZE)).invoice
    assert (opened.status, opened.total.minor_units) == (invoices.INVOICE_STATUS_OPEN, 500)
    settle = invoices.ApplyLifecycleRequest(invoice_id=draft, action=invoices.INVOICE_ACTION_SETTLE)
    refused = await rim.refused(INVOICES + "ApplyLifecycle", settle)
    assert refused.reason == "AMOUNT_STILL_DUE"
    assert refused.metadata == {"invoice": draft, "amount_due": "5.00 USD"}
    voided = await move(rim, draft, invoices.INVOICE_ACTION_VOID)
    assert voided.invoice.status == invoices.INVOICE_STATUS_VOID
    assert voided.replacement.replaces_invoice_id == draft
    assert (await rim.refused(INVOICES + "ApplyLifecycle", settle)).reason == "INVALID_TRANSITION"

    again = voided.replacement.id
    await move(rim, again, invoices.INVOICE_ACTION_FINALIZE)
    pay = payments.RecordPaymentRequest(
        invoice_id=again,
        amount=Money(minor_units=500, currency_code="USD"),
        external_reference="bank-1",
    )
    await rim.call("/tollway.invoice.v1.PaymentService/RecordPayment", pay)
    for action in invoices.InvoiceAction.values()[1:]:
        request = invoices.ApplyLifecycleRequest(invoice_id=again, action=action)
        refused = await rim.refused(INVOICES + "ApplyLifecycle", request)
        assert refused.reason == "INVALID_TRANSITION", action
    decoded = decode(Prefix.INVOICE, again)
    assert await house.value("SELECT status FROM invoices WHERE id = $1", decoded) == "paid"
