"""The rim's InvoiceService. Invariant: convert, call, convert; an invoice is read in one snapshot."""

from __future__ import annotations

from collections.abc import Sequence

from tollway.invoice.v1 import invoice_service_pb2 as pb
from tollway.invoice.v1 import invoice_service_pb2_grpc as rpc

from billing.domain.decimals import decimal_text
from billing.domain.ids import Prefix, decode, encode
from billing.domain.invoice import InvoiceStatus
from billing.runtime.db import Connection
from billing.services import invoices
from billing.services.invoice_events import wire_status
from billing.services.invoice_line import Line
from billing.services.rows import Invoice
from server.call import Call
from server.convert import to_money, to_range, to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token


class InvoiceServicer(rpc.InvoiceServiceServicer):
    """Shows invoices."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def GetInvoice(
        self, request: pb.GetInvoiceRequest, context: Context
    ) -> pb.GetInvoiceResponse:
        """See the proto."""
        named = decode(Prefix.INVOICE, request.invoice_id, path="invoice_id")

        async def work(tx: Connection, call: Call) -> pb.GetInvoiceResponse:
            found = await invoices.get_invoice(tx, call.tenant_id, named)
            return pb.GetInvoiceResponse(invoice=to_invoice(found.row, found.lines))

        return await self._house.read(work, snapshot=True)

    async def ListInvoices(
        self, request: pb.ListInvoicesRequest, context: Context
    ) -> pb.ListInvoicesResponse:
        """See the proto."""
        wanted, before = from_request(request), read_token(request)

        async def work(tx: Connection, call: Call) -> pb.ListInvoicesResponse:
            limit = page_size(request.page_size) + 1
            found = await invoices.list_invoices(
                tx, call.tenant_id, wanted, before=before, limit=limit
            )
            rows, token = cut_page(request, found, [row.id for row in found])
            return pb.ListInvoicesResponse(
                invoices=[to_invoice(row, ()) for row in rows], next_page_token=token
            )

        return await self._house.read(work)


def from_request(request: pb.ListInvoicesRequest) -> invoices.InvoiceFilter:
    """What to list, as the wire says it. Raises InvalidId."""
    status = pb.InvoiceStatus.Name(request.status).removeprefix("INVOICE_STATUS_").lower()
    return invoices.InvoiceFilter(
        decode(Prefix.CUSTOMER, request.customer_id, path="customer_id")
        if request.customer_id
        else None,
        decode(Prefix.SUBSCRIPTION, request.subscription_id, path="subscription_id")
        if request.subscription_id
        else None,
        InvoiceStatus(status) if request.status else None,
    )


def to_invoice(row: Invoice, lines: Sequence[Line]) -> pb.Invoice:
    """An invoice for the wire."""
    return pb.Invoice(
        id=encode(Prefix.INVOICE, row.id),
        customer_id=encode(Prefix.CUSTOMER, row.customer_id),
        subscription_id=encode(Prefix.SUBSCRIPTION, row.subscription_id)
        if row.subscription_id
        else "",
        kind=pb.InvoiceKind.Value(f"INVOICE_KIND_{row.kind.upper()}"),
        boundary_time=to_timestamp(row.boundary),
        status=wire_status(row.status),
        number=row.number or "",
        subtotal=to_money(row.subtotal, row.currency),
        total=to_money(row.total, row.currency),
        amount_due=to_money(row.amount_due, row.currency),
        finalize_time=to_timestamp(row.finalize_at),
        finalized_time=to_timestamp(row.finalized_at),
        blocked_reason=row.blocked_reason or "",
        lines=[to_line(number, line) for number, line in enumerate(lines, start=1)],
        create_time=to_timestamp(row.created_at),
    )


def to_line(number: int, line: Line) -> pb.InvoiceLine:
    """A line for the wire, with its derivation."""
    return pb.InvoiceLine(
        line_number=number,
        kind=pb.LineKind.Value(f"LINE_KIND_{line.kind.upper()}"),
        description=line.description,
        subscription_item_id=encode(Prefix.SUBSCRIPTION_ITEM, line.item_id),
        price_id=encode(Prefix.PRICE, line.price_id),
        period=to_range(line.period.start, line.period.end),
        quantity=decimal_text(line.quantity),
        amount=to_money(line.amount.minor_units, line.amount.currency),
        steps=[
            pb.LineStep(
                label=f"tier {step['tier']}: {step['label']}" if "tier" in step else step["label"],
                quantity=step["quantity"],
                unit_amount=step["unit_amount"],
                amount=step["amount"],
            )
            for step in line.steps
        ],
        dimensions=line.dimensions,
    )
