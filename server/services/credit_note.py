"""The rim's CreditNoteService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from tollway.invoice.v1 import credit_note_service_pb2 as pb
from tollway.invoice.v1 import credit_note_service_pb2_grpc as rpc

from billing.domain.errors import Invalid
from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import credit_notes
from billing.services.credit_notes import CreditNoteView
from server.call import Call
from server.convert import to_decimal, to_money, to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token
from server.request_fields import named_or_none
from server.services.invoice import to_party


class CreditNoteServicer(rpc.CreditNoteServiceServicer):
    """Issues and shows credit notes."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def CreateCreditNote(
        self, request: pb.CreateCreditNoteRequest, context: Context
    ) -> pb.CreateCreditNoteResponse:
        """See the proto."""
        draft = from_create(request)

        async def work(tx: Connection, call: Call) -> pb.CreateCreditNoteResponse:
            note = await credit_notes.create_credit_note(
                tx, call.tenant_id, draft, call.cause, now=call.now
            )
            return pb.CreateCreditNoteResponse(credit_note=to_credit_note(note))

        return await self._house.mutate(request, pb.CreateCreditNoteResponse, work)

    async def GetCreditNote(
        self, request: pb.GetCreditNoteRequest, context: Context
    ) -> pb.GetCreditNoteResponse:
        """See the proto."""
        note_id = decode(Prefix.CREDIT_NOTE, request.credit_note_id, path="credit_note_id")

        async def work(tx: Connection, call: Call) -> pb.GetCreditNoteResponse:
            note = await credit_notes.get_credit_note(tx, call.tenant_id, note_id)
            return pb.GetCreditNoteResponse(credit_note=to_credit_note(note))

        return await self._house.read(work)

    async def ListCreditNotes(
        self, request: pb.ListCreditNotesRequest, context: Context
    ) -> pb.ListCreditNotesResponse:
        """See the proto."""
        wanted = credit_notes.CreditNoteFilter(
            named_or_none(Prefix.INVOICE, request.invoice_id, path="invoice_id"),
            named_or_none(Prefix.CUSTOMER, request.customer_id, path="customer_id"),
        )
        before = read_token(request)

        async def work(tx: Connection, call: Call) -> pb.ListCreditNotesResponse:
            limit = page_size(request.page_size) + 1
            found = await credit_notes.list_credit_notes(
                tx, call.tenant_id, wanted, before=before, limit=limit
            )
            notes, token = cut_page(request, found, [note.row.id for note in found])
            return pb.ListCreditNotesResponse(
                credit_notes=[to_credit_note(note) for note in notes], next_page_token=token
            )

        return await self._house.read(work)


def from_create(request: pb.CreateCreditNoteRequest) -> credit_notes.NewCreditNote:
    """The note to issue, as the wire says it. Raises InvalidId, or Invalid for a line named twice."""
    invoice_id = decode(Prefix.INVOICE, request.invoice_id, path="invoice_id")
    amounts: dict[int, int] = {}
    for index, line in enumerate(request.lines):
        if line.line_number in amounts:
            raise Invalid.field(f"lines[{index}].line_number", "names a line for the second time")
        amounts[line.line_number] = line.minor_units
    return credit_notes.NewCreditNote(invoice_id, amounts, request.reason)


def to_credit_note(view: CreditNoteView) -> pb.CreditNote:
    """A credit note for the wire."""
    row, parties = view.row, view.parties
    return pb.CreditNote(
        id=encode(Prefix.CREDIT_NOTE, row.id),
        number=row.number,
        invoice_id=encode(Prefix.INVOICE, row.invoice_id),
        invoice_number=view.invoice_number,
        customer_id=encode(Prefix.CUSTOMER, row.customer_id),
        reason=row.reason,
        net=to_money(row.net, row.currency),
        tax=to_money(row.tax, row.currency),
        total=to_money(row.total, row.currency),
        lowers_due=to_money(row.lowers_due, row.currency),
        to_credit_balance=to_money(row.to_credit_balance, row.currency),
        lines=[
            pb.CreditNoteLine(
                line_number=line.line_number,
                description=line.description,
                net=to_money(line.net, row.currency),
                tax=to_money(line.tax, row.currency),
                tax_percent=to_decimal(line.tax_percent),
            )
            for line in view.lines
        ],
        issued_time=to_timestamp(row.issued_at),
        seller=to_party(parties.seller),
        buyer=to_party(parties.buyer),
    )
