"""The rim's DocumentService. Invariant: convert, call, convert; an invoice is rendered from one snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator

from tollway.invoice.v1 import document_service_pb2 as pb
from tollway.invoice.v1 import document_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode
from billing.runtime.db import Connection
from billing.services import credit_notes, invoices
from billing.services.invoice_export import ExportFilter
from server.call import Call, current_call
from server.documents.render import credit_note_page, invoice_page
from server.export import export
from server.house import House
from server.interceptor import Context
from server.request_fields import instant, named_or_none


class DocumentServicer(rpc.DocumentServiceServicer):
    """Papers and spreadsheets."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def RenderInvoice(
        self, request: pb.RenderInvoiceRequest, context: Context
    ) -> pb.RenderInvoiceResponse:
        """See the proto."""
        invoice_id = decode(Prefix.INVOICE, request.invoice_id, path="invoice_id")

        async def work(tx: Connection, call: Call) -> pb.RenderInvoiceResponse:
            shown = await invoices.get_invoice(tx, call.tenant_id, invoice_id)
            return pb.RenderInvoiceResponse(html=invoice_page(shown))

        return await self._house.read(work, snapshot=True)

    async def RenderCreditNote(
        self, request: pb.RenderCreditNoteRequest, context: Context
    ) -> pb.RenderCreditNoteResponse:
        """See the proto."""
        note_id = decode(Prefix.CREDIT_NOTE, request.credit_note_id, path="credit_note_id")

        async def work(tx: Connection, call: Call) -> pb.RenderCreditNoteResponse:
            shown = await credit_notes.get_credit_note(tx, call.tenant_id, note_id)
            return pb.RenderCreditNoteResponse(html=credit_note_page(shown))

        return await self._house.read(work)

    async def ExportInvoices(
        self, request: pb.ExportInvoicesRequest, context: Context
    ) -> AsyncIterator[pb.ExportInvoicesResponse]:
        """See the proto."""
        wanted = from_request(request)
        lines = request.content == pb.EXPORT_CONTENT_LINES
        async for text in export(self._house.api, current_call().tenant_id, wanted, lines=lines):
            yield pb.ExportInvoicesResponse(csv=text)


def from_request(request: pb.ExportInvoicesRequest) -> ExportFilter:
    """What to export, as the wire says it. Raises Invalid, InvalidId."""
    return ExportFilter(
        named_or_none(Prefix.CUSTOMER, request.customer_id, path="customer_id"),
        instant(request, "finalized_from"),
        instant(request, "finalized_until"),
    )
