"""Tax, discounts, credit, payments and credit notes as a client meets them: a real server, real calls."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from tollway.catalog.v1 import catalog_service_pb2 as catalog
from tollway.catalog.v1 import price_models_pb2 as price_models
from tollway.customer.v1 import customer_service_pb2 as customers
from tollway.invoice.v1 import credit_note_service_pb2 as notes
from tollway.invoice.v1 import credit_service_pb2 as credit
from tollway.invoice.v1 import discount_service_pb2 as discounts
from tollway.invoice.v1 import invoice_service_pb2 as invoices
from tollway.invoice.v1 import payment_service_pb2 as payments
from tollway.subscription.v1 import subscription_service_pb2 as subscriptions
from tollway.tenant.v1 import tenant_service_pb2 as tenants
from tollway.type.v1.money_pb2 import Money

from tests.driver import Driver
from tests.server.rim import Rim

V1 = "/tollway.invoice.v1."
CATALOG = "/tollway.catalog.v1.CatalogService/"
CUSTOMERS = "/tollway.customer.v1.CustomerService/"


def usd(units: int) -> Money:
    return Money(minor_units=units, currency_code="USD")


async def priced(rim: Rim, tax_percent: str = "20") -> Any:
    """A plan with a taxed fee of 49.00 a month."""
    plan = catalog.CreatePlanRequest(
        key="basic", currency_code="USD", interval=catalog.INTERVAL_MONTH
    )
    await rim.call(CATALOG + "CreatePlan", plan)
    price = catalog.CreatePriceRequest(
        plan_key="basic",
        display_name="Seat",
        flat=price_models.FlatPrice(unit_amount="49.00"),
        tax_percent=tax_percent,
    )
    return (await rim.call(CATALOG + "CreatePrice", price)).price


async def invoiced(rim: Rim, customer_id: str) -> Any:
    """The first invoice of a new subscription of the customer, final."""
    request = subscriptions.CreateSubscriptionRequest(customer_id=customer_id, plan_key="basic")
    await rim.call("/tollway.subscription.v1.SubscriptionService/CreateSubscription", request)
    house = Driver(rim.databases, rim.acme.id)
    await house.settle()
    await house.make_final()
    listed = await rim.call(V1 + "InvoiceService/ListInvoices")
    wanted = invoices.GetInvoiceRequest(invoice_id=listed.invoices[0].id)
    return (await rim.call(V1 + "InvoiceService/GetInvoice", wanted)).invoice


async def test_money_below_the_lines_from_the_discount_to_the_last_credit_note(rim: Rim) -> None:
    assert (await priced(rim)).tax_percent == "20"
    customer = await rim.customer()
    discount = discounts.CreateDiscountRequest(
        customer_id=customer.id, display_name="Spring", percent="10", periods=1
    )
    made = (await rim.call(V1 + "DiscountService/CreateDiscount", discount)).discount
    grant = credit.GrantCreditRequest(customer_id=customer.id, amount=usd(1000), reason="Welcome")
    await rim.call(V1 + "CreditService/GrantCredit", grant)

    invoice = await invoiced(rim, customer.id)

    # 49.00 - 4.90 + 8.82, less 10.00 of credit.
    assert (invoice.subtotal, invoice.discount, invoice.tax) == (usd(4900), usd(490), usd(882))
    assert (invoice.total, invoice.credit_applied, invoice.amount_due) == (
        usd(5292),
        usd(1000),
        usd(4292),
    )
    assert [(one.display_name, one.percent) for one in invoice.discounts] == [("Spring", "10")]
    assert (invoice.seller.name, invoice.buyer.name) == ("Acme", "United")
    request = discounts.ListDiscountsRequest(customer_id=customer.id)
    (listed,) = (await rim.call(V1 + "DiscountService/ListDiscounts", request)).discounts
    assert (listed.id, listed.periods_used) == (made.id, 1)
    await credit_and_pay(rim, invoice)
    account = credit.GetCreditBalanceRequest(customer_id=customer.id)
    held = await rim.call(V1 + "CreditService/GetCreditBalance", account)
    assert list(held.balances) == [usd(908)]
    assert [(entry.kind, entry.amount.minor_units) for entry in await ledger(rim, customer.id)] == [
        (credit.CREDIT_KIND_PAYMENT_EXCESS, 908),
        (credit.CREDIT_KIND_APPLIED, -1000),
        (credit.CREDIT_KIND_GRANT, 1000),
    ]


async def credit_and_pay(rim: Rim, invoice: Any) -> None:
    """A credit note of 12.00, then a payment that is more than is due."""
    note = notes.CreateCreditNoteRequest(
        invoice_id=invoice.id,
        lines=[notes.NewCreditNoteLine(line_number=1, minor_units=1000)],
        reason="Outage",
    )
    issued = (await rim.call(V1 + "CreditNoteService/CreateCreditNote", note)).credit_note
    assert (issued.number, issued.total, issued.lowers_due) == ("CN-000001", usd(1200), usd(1200))
    got = await rim.call(
        V1 + "CreditNoteService/GetCreditNote", notes.GetCreditNoteRequest(credit_note_id=issued.id)
    )
    assert got.credit_note == issued
    assert issued.invoice_number == invoice.number

    payment = payments.RecordPaymentRequest(
        invoice_id=invoice.id, amount=usd(4000), external_reference="bank-1"
    )
    recorded = (await rim.call(V1 + "PaymentService/RecordPayment", payment)).payment
    assert recorded.applied == usd(3092)
    of_invoice = payments.ListPaymentsRequest(invoice_id=invoice.id)
    (kept,) = (await rim.call(V1 + "PaymentService/ListPayments", of_invoice)).payments
    assert kept == recorded
    wanted = invoices.GetInvoiceRequest(invoice_id=invoice.id)
    paid = (await rim.call(V1 + "InvoiceService/GetInvoice", wanted)).invoice
    assert paid.status == invoices.INVOICE_STATUS_PAID
    assert (paid.amount_paid, paid.amount_credited) == (usd(3092), usd(1200))


async def ledger(rim: Rim, customer_id: str) -> list[Any]:
    """All entries of the customer's ledger, newest first, read in pages of two."""
    entries: list[Any] = []
    token = ""
    while not entries or token:
        page = credit.ListCreditLedgerRequest(
            customer_id=customer_id, page_size=2, page_token=token
        )
        answer = await rim.call(V1 + "CreditService/ListCreditLedger", page)
        assert len(answer.entries) <= 2
        entries.extend(answer.entries)
        token = answer.next_page_token
    return entries


async def test_a_customer_that_pays_no_tax_is_told_apart_from_one_without_a_rate(rim: Rim) -> None:
    await priced(rim)
    customer = await rim.customer()
    change = customers.UpdateCustomerRequest(
        customer_id=customer.id,
        update_mask=FieldMask(paths=["tax_percent", "address"]),
        tax_percent="0",
        address="1 Main St\nSpringfield",
        display_name="not named in the mask",
    )
    changed = (await rim.call(CUSTOMERS + "UpdateCustomer", change)).customer
    assert (changed.tax_percent, changed.display_name) == ("0", "United")

    invoice = await invoiced(rim, customer.id)

    assert (invoice.tax, invoice.total) == (usd(0), usd(4900))
    assert invoice.buyer.address == "1 Main St\nSpringfield"
    # What it says stays, whatever the customer is called later.
    change = customers.UpdateCustomerRequest(
        customer_id=customer.id, update_mask=FieldMask(paths=["address"]), address="elsewhere"
    )
    await rim.call(CUSTOMERS + "UpdateCustomer", change)
    wanted = invoices.GetInvoiceRequest(invoice_id=invoice.id)
    same = (await rim.call(V1 + "InvoiceService/GetInvoice", wanted)).invoice
    assert same == invoice


async def test_payment_terms_are_the_customers_or_else_the_tenants(rim: Rim) -> None:
    await priced(rim)
    customer = await rim.customer()
    assert not customer.HasField("payment_terms_days")
    profile = tenants.UpdateTenantProfileRequest(
        update_mask=FieldMask(paths=["payment_terms_days"]), payment_terms_days=14
    )
    method = "/tollway.tenant.v1.TenantService/UpdateTenantProfile"
    assert (await rim.call(method, profile)).profile.payment_terms_days == 14
    mask = FieldMask(paths=["payment_terms_days"])
    change = customers.UpdateCustomerRequest(
        customer_id=customer.id, update_mask=mask, payment_terms_days=0
    )
    changed = (await rim.call(CUSTOMERS + "UpdateCustomer", change)).customer
    assert changed.HasField("payment_terms_days")
    change = customers.UpdateCustomerRequest(customer_id=customer.id, update_mask=mask)
    changed = (await rim.call(CUSTOMERS + "UpdateCustomer", change)).customer
    assert not changed.HasField("payment_terms_days")

    invoice = await invoiced(rim, customer.id)

    final, due = invoice.finalized_time.ToDatetime(), invoice.due_time.ToDatetime()
    assert due == final + timedelta(days=14)


async def test_bad_input_is_refused_with_the_field_and_the_reason(rim: Rim) -> None:
    await priced(rim)
    customer = await rim.customer()
    for reason, method, request in (
        (
            "INVALID_ARGUMENT",
            "DiscountService/CreateDiscount",
            discounts.CreateDiscountRequest(
                customer_id=customer.id, display_name="x", percent="101"
            ),
        ),
        (
            "INVALID_DECIMAL",
            "DiscountService/CreateDiscount",
            discounts.CreateDiscountRequest(customer_id=customer.id, display_name="x", percent="x"),
        ),
        (
            "UNKNOWN_CURRENCY",
            "CreditService/GrantCredit",
            credit.GrantCreditRequest(
                customer_id=customer.id,
                amount=Money(minor_units=1, currency_code="XXX"),
                reason="x",
            ),
        ),
        (
            "INVALID_ARGUMENT",
            "CreditService/GrantCredit",
            credit.GrantCreditRequest(customer_id=customer.id, amount=usd(-1), reason="x"),
        ),
        (
            "CREDIT_BALANCE_TOO_LOW",
            "CreditService/AdjustCreditBalance",
            credit.AdjustCreditBalanceRequest(customer_id=customer.id, amount=usd(-1), reason="x"),
        ),
        (
            "INVALID_ARGUMENT",
            "PaymentService/RecordPayment",
            payments.RecordPaymentRequest(
                invoice_id=(await invoiced(rim, customer.id)).id,
                amount=usd(0),
                external_reference="x",
            ),
        ),
    ):
        refusal = await rim.refused(V1 + method, request)
        assert refusal.reason == reason, (method, refusal)


async def test_a_discount_that_was_ended_lowers_nothing_more(rim: Rim) -> None:
    await priced(rim)
    customer = await rim.customer()
    draft = discounts.CreateDiscountRequest(
        customer_id=customer.id, display_name="Spring", amount=usd(100)
    )
    made = (await rim.call(V1 + "DiscountService/CreateDiscount", draft)).discount
    request = discounts.EndDiscountRequest(discount_id=made.id)
    ended = [
        (await rim.call(V1 + "DiscountService/EndDiscount", request)).discount for _ in range(2)
    ]
    assert ended[0] == ended[1]
    assert ended[0].HasField("end_time")
    assert (await invoiced(rim, customer.id)).discount == usd(0)
