"""Papers for people and files for accounting, over gRPC and over HTTP."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tollway.customer.v1 import customer_service_pb2 as customers
from tollway.invoice.v1 import credit_note_service_pb2 as notes
from tollway.invoice.v1 import document_service_pb2 as documents
from tollway.invoice.v1 import invoice_item_service_pb2 as items
from tollway.invoice.v1 import invoice_service_pb2 as invoices
from tollway.tenant.v1 import tenant_service_pb2 as tenants

from billing.services.keys import Scope
from tests.server.rim import Rim
from tests.server.test_gateway import open_web

V1 = "/tollway.invoice.v1."
PROFILE = "/tollway.tenant.v1.TenantService/UpdateTenantProfile"
FINALIZE = V1 + "InvoiceService/FinalizeInvoice"
HOSTILE = '<script>alert("x")</script> & Söhne'


async def manual(rim: Rim, customer_id: str, *, final: bool = True, **more: Any) -> Any:
    """An invoice of 3 x 33.335 and a credit of 10.00, taxed with 10 %."""
    request = items.CreateInvoiceRequest(
        customer_id=customer_id,
        currency_code="EUR",
        items=[
            items.NewInvoiceItem(
                description=HOSTILE, quantity="3", unit_amount="33.335", tax_percent="10"
            ),
            items.NewInvoiceItem(description="=1+1", unit_amount="-10.00", tax_percent="10"),
        ],
        **more,
    )
    made = (await rim.call(V1 + "InvoiceItemService/CreateInvoice", request)).invoice
    if not final:
        return made
    return (await rim.call(FINALIZE, invoices.FinalizeInvoiceRequest(invoice_id=made.id))).invoice


async def test_an_invoice_made_by_hand_is_a_draft_until_somebody_finalizes_it(rim: Rim) -> None:
    customer = await rim.customer()
    draft = await manual(rim, customer.id, final=False, memo="Thanks")
    assert (draft.status, draft.kind) == (
        invoices.INVOICE_STATUS_DRAFT,
        invoices.INVOICE_KIND_MANUAL,
    )
    assert not draft.HasField("finalize_time")
    # 3 x 33.335 is 100.005, which is rounded once; 10 % of 100.01 and of -10.00.
    assert [line.amount.minor_units for line in draft.lines] == [10001, -1000]
    assert (draft.subtotal.minor_units, draft.tax.minor_units) == (9001, 900)

    added = items.AddInvoiceItemRequest(
        invoice_id=draft.id, item=items.NewInvoiceItem(description="More", unit_amount="1")
    )
    item = (await rim.call(V1 + "InvoiceItemService/AddInvoiceItem", added)).item
    listed = await rim.call(
        V1 + "InvoiceItemService/ListInvoiceItems",
        items.ListInvoiceItemsRequest(invoice_id=draft.id),
    )
    assert [one.description for one in listed.items] == [HOSTILE, "=1+1", "More"]
    remove = items.RemoveInvoiceItemRequest(invoice_item_id=item.id)
    await rim.call(V1 + "InvoiceItemService/RemoveInvoiceItem", remove)
    refusal = await rim.refused(V1 + "InvoiceItemService/RemoveInvoiceItem", remove)
    assert refusal.reason == "INVOICE_ITEM_NOT_FOUND"

    final = (await rim.call(FINALIZE, invoices.FinalizeInvoiceRequest(invoice_id=draft.id))).invoice
    assert (final.number, final.total.minor_units, final.memo) == ("INV-000001", 9901, "Thanks")
    assert list(final.lines) == list(draft.lines)
    refusal = await rim.refused(V1 + "InvoiceItemService/AddInvoiceItem", added)
    assert refusal.reason == "INVOICE_NOT_DRAFT"
    remove = items.RemoveInvoiceItemRequest(invoice_item_id=final.lines[0].invoice_item_id)
    refusal = await rim.refused(V1 + "InvoiceItemService/RemoveInvoiceItem", remove)
    assert refusal.reason == "INVOICE_NOT_DRAFT"


async def test_a_page_shows_who_bills_whom_and_escapes_what_people_wrote(rim: Rim) -> None:
    profile = tenants.UpdateTenantProfileRequest(
        update_mask=FieldMask(paths=["legal_name", "accent_color", "payment_instructions"]),
        legal_name=HOSTILE,
        accent_color="#0F766E",
        payment_instructions="IBAN AT61",
    )
    shown = (await rim.call(PROFILE, profile)).profile
    assert shown.accent_color == "#0f766e"
    change = customers.UpdateCustomerRequest(
        customer_id=(await rim.customer()).id,
        update_mask=FieldMask(paths=["address"]),
        address="1 Main St\nSpringfield",
    )
    customer = (
        await rim.call("/tollway.customer.v1.CustomerService/UpdateCustomer", change)
    ).customer
    invoice = await manual(rim, customer.id)
    request = documents.RenderInvoiceRequest(invoice_id=invoice.id)

    html = (await rim.call(V1 + "DocumentService/RenderInvoice", request)).html

    for text in (
        invoice.number,
        "#0f766e",
        "IBAN AT61",
        "1 Main St\nSpringfield",
        "99.01 EUR",
        "33.335",
    ):
        assert text in html, text
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 3  # the title, the seller, the line
    bad = tenants.UpdateTenantProfileRequest(
        update_mask=FieldMask(paths=["accent_color"]), accent_color="red;}"
    )
    assert (await rim.refused(PROFILE, bad)).reason == "INVALID_ARGUMENT"

    # A later name does not reach what is final.
    profile.legal_name, profile.accent_color = "Renamed", ""
    await rim.call(PROFILE, profile)
    assert (await rim.call(V1 + "DocumentService/RenderInvoice", request)).html == html


async def test_pages_and_files_are_served_to_who_has_the_key(rim: Rim) -> None:
    customer = await rim.customer()
    invoice = await manual(rim, customer.id)
    note = notes.CreateCreditNoteRequest(
        invoice_id=invoice.id,
        lines=[notes.NewCreditNoteLine(line_number=1, minor_units=1001)],
        reason="Outage",
    )
    issued = (await rim.call(V1 + "CreditNoteService/CreateCreditNote", note)).credit_note
    async with open_web(rim) as web:
        page = await web.ask("GET", f"/v1/invoices/{invoice.id}/html")
        assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert "script" not in page.headers["Content-Security-Policy"]
        assert invoice.number in page.body.decode()
        paper = await web.ask("GET", f"/v1/credit_notes/{issued.id}/html")
        assert issued.number in paper.body.decode()
        assert "11.01" in paper.body.decode()

        lines = await web.ask("GET", f"/v1/exports/invoice_lines.csv?customer_id={customer.id}")
        rows = list(csv.DictReader(io.StringIO(lines.body.decode(), newline="")))
        assert [(row["number"], row["description"], row["amount"]) for row in rows] == [
            ("INV-000001", HOSTILE, "100.01"),
            ("INV-000001", "'=1+1", "-10.00"),
        ]
        whole = await web.ask("GET", "/v1/exports/invoices.csv")
        (row,) = csv.DictReader(io.StringIO(whole.body.decode(), newline=""))
        assert (row["total"], row["amount_credited"], row["amount_due"]) == (
            "99.01",
            "11.01",
            "88.00",
        )

        for path in (f"/v1/invoices/{invoice.id}/html", "/v1/exports/invoices.csv"):
            refused = await web.ask("GET", path, key="wrong")
            assert refused.status == 401
        other = await web.ask(
            "GET", f"/v1/invoices/{invoice.id}/html", key=rim.other.keys[Scope.READ]
        )
        assert (other.status, other.info["reason"]) == (404, "INVOICE_NOT_FOUND")
        unknown = await web.ask("GET", "/v1/exports/invoices.csv?nothing=1")
        assert unknown.status == 400


@pytest.mark.parametrize("lines", [False, True], ids=["invoices", "lines"])
async def test_an_export_of_many_pages_has_each_row_once(
    rim: Rim, monkeypatch: pytest.MonkeyPatch, lines: bool
) -> None:
    monkeypatch.setattr("server.export.PAGE_INVOICES", 2)
    customer = await rim.customer()
    made = [await manual(rim, customer.id) for _ in range(5)]
    await manual(rim, customer.id, final=False)
    content = documents.EXPORT_CONTENT_LINES if lines else documents.EXPORT_CONTENT_INVOICES
    request = documents.ExportInvoicesRequest(content=content)
    stream: Any = rim.channel.unary_stream(V1 + "DocumentService/ExportInvoices")
    metadata = (("authorization", f"Bearer {rim.acme.keys[Scope.READ]}"),)

    pieces = [
        documents.ExportInvoicesResponse.FromString(piece).csv
        async for piece in stream(request.SerializeToString(), metadata=metadata)
    ]

    rows = list(csv.DictReader(io.StringIO("".join(pieces), newline="")))
    times = 2 if lines else 1
    assert [row["invoice_id"] for row in rows] == [one.id for one in made for _ in range(times)]
    assert len(pieces) == 4


async def test_lists_of_invoices_are_narrowed_by_kind_number_and_time(rim: Rim) -> None:
    customer = await rim.customer()
    first = await manual(rim, customer.id)
    second = await manual(rim, customer.id)
    draft = await manual(rim, customer.id, final=False)

    async def listed(**wanted: Any) -> list[str]:
        request = invoices.ListInvoicesRequest(**wanted)
        return [
            one.id for one in (await rim.call(V1 + "InvoiceService/ListInvoices", request)).invoices
        ]

    assert await listed(kind=invoices.INVOICE_KIND_MANUAL) == [draft.id, second.id, first.id]
    assert await listed(kind=invoices.INVOICE_KIND_PERIOD) == []
    assert await listed(number="INV-000001") == [first.id]
    assert await listed(finalized_from=second.finalized_time) == [second.id]
    assert await listed(finalized_until=second.finalized_time) == [first.id]
    assert await listed(created_from=draft.create_time) == [draft.id]
    assert await listed(created_until=second.create_time) == [first.id]
    assert await listed(blocked=True) == []
