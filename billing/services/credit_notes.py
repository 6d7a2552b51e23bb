"""Invoice path, step 6: credit notes, the only correction of an open or paid invoice besides void.

Invariant: under the invoice's lock, so that two notes at once never take more from a line, or from the invoice, than
there is; numbers are gapless per tenant; a note is never changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import queries.credit_notes
from queries.credit_notes import ListCreditNoteLinesRow
from queries.models import CreditNote, Invoice
from tollway.invoice.v1 import credit_note_events_pb2

from billing.domain import credit_note
from billing.domain.errors import NotFound
from billing.domain.ids import Prefix, encode
from billing.domain.money import Money
from billing.runtime.db import Connection
from billing.runtime.ids import new_id
from billing.services import events
from billing.services.actor import Cause
from billing.services.business_time import business_time
from billing.services.credit_ledger import CreditKind
from billing.services.invoice_events import wire_money
from billing.services.invoice_lines_store import read_lines
from billing.services.parties import Parties, read_parties
from billing.services.settlement import give_credit, lock_final, settle


class CreditNoteNotFound(NotFound):
    """There is no such credit note in this tenant."""

    reason = "CREDIT_NOTE_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class NewCreditNote:
    """A note to issue: by line number, the amount before tax in minor units."""

    invoice_id: UUID
    amounts: Mapping[int, int]
    reason: str


@dataclass(frozen=True, slots=True)
class CreditNoteFilter:
    """Which notes to list; None for all."""

    invoice_id: UUID | None = None
    customer_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class CreditNoteView:
    """A note with its lines (none in lists), and the number of the invoice that it corrects."""

    row: CreditNote
    invoice_number: str
    lines: Sequence[ListCreditNoteLinesRow] = ()

    @property
    def parties(self) -> Parties:
        """Seller and buyer, as the invoice has them."""
        assert self.row.parties is not None, "a final invoice has them"
        return read_parties(self.row.parties)


async def create_credit_note(
    tx: Connection, tenant_id: UUID, draft: NewCreditNote, cause: Cause, *, now: datetime
) -> CreditNoteView:
    """The note; emits credit_note.issued, and invoice.status.changed when nothing is due any more.

    Raises InvoiceNotFound, InvalidTransition, CreditExceedsLine, CreditExceedsInvoice, Invalid.
    """
    invoice = await lock_final(tx, tenant_id, draft.invoice_id, "credited")
    note = await _computed(tx, invoice, draft)
    at = await business_time(tx, tenant_id, now)
    settled, told = await settle(
        tx,
        invoice,
        paid=Money.zero(invoice.currency),
        credited=note.lowers_due,
        at=at,
        cause=cause,
    )
    await give_credit(tx, invoice, CreditKind.CREDIT_NOTE, note.to_credit_balance, at, now)
    row = await queries.credit_notes.insert_credit_note(
        tx,
        tenant_id=tenant_id,
        id=new_id(now),
        invoice_id=invoice.id,
        reason=draft.reason,
        net=note.net.minor_units,
        tax=note.tax.minor_units,
        total=note.total.minor_units,
        lowers_due=note.lowers_due.minor_units,
        to_credit_balance=note.to_credit_balance.minor_units,
        at=at,
    )
    assert row is not None, "a tenant has its sequence"
    await queries.credit_notes.insert_credit_note_lines(
        tx,
        tenant_id=tenant_id,
        credit_note_id=row.id,
        invoice_id=invoice.id,
        line_numbers=[line.number for line in note.lines],
        nets=[line.net.minor_units for line in note.lines],
        taxes=[line.tax.minor_units for line in note.lines],
    )
    resource = encode(Prefix.INVOICE, invoice.id)
    payload = _issued(row, settled)
    first = events.NewEvent(tenant_id, resource, invoice.version + 1, payload, at, cause)
    await events.emit(tx, [first, *told], now=now)
    return await _view(tx, row, invoice.number or "")


async def get_credit_note(tx: Connection, tenant_id: UUID, note_id: UUID) -> CreditNoteView:
    """The note with its lines. Raises CreditNoteNotFound."""
    found = await queries.credit_notes.get_credit_note(tx, tenant_id=tenant_id, id=note_id)
    if found is None:
        raise CreditNoteNotFound(metadata={"credit_note": encode(Prefix.CREDIT_NOTE, note_id)})
    return await _view(tx, found.credit_note, found.invoice_number or "")


async def list_credit_notes(
    tx: Connection, tenant_id: UUID, wanted: CreditNoteFilter, *, before: UUID | None, limit: int
) -> list[CreditNoteView]:
    """At most `limit` notes without lines, newest first, those issued before the note `before`."""
    rows = await queries.credit_notes.list_credit_notes(
        tx,
        tenant_id=tenant_id,
        before=before,
        invoice_id=wanted.invoice_id,
        customer_id=wanted.customer_id,
        page_max=limit,
    )
    return [CreditNoteView(row.credit_note, row.invoice_number or "") for row in rows]


async def _computed(
    tx: Connection, invoice: Invoice, draft: NewCreditNote
) -> credit_note.CreditNote:
    currency = invoice.currency
    zero = Money.zero(currency)
    taken = await queries.credit_notes.list_credited_lines(
        tx, tenant_id=invoice.tenant_id, invoice_id=invoice.id
    )
    earlier = {
        row.line_number: (Money(row.net, currency), Money(row.tax, currency)) for row in taken
    }
    lines = {
        number: credit_note.CreditableLine(
            line.amount - (line.discount or zero),
            line.tax or zero,
            *earlier.get(number, (zero, zero)),
        )
        for number, line in enumerate(await read_lines(tx, invoice), start=1)
    }
    amounts = {number: Money(units, currency) for number, units in draft.amounts.items()}
    return credit_note.credit_note(
        lines,
        amounts,
        total=Money(invoice.total, currency),
        due=Money(invoice.amount_due, currency),
    )


async def _view(tx: Connection, row: CreditNote, invoice_number: str) -> CreditNoteView:
    lines = await queries.credit_notes.list_credit_note_lines(
        tx, tenant_id=row.tenant_id, credit_note_id=row.id
    )
    return CreditNoteView(row, invoice_number, lines)


def _issued(row: CreditNote, settled: Invoice) -> credit_note_events_pb2.CreditNoteIssued:
    return credit_note_events_pb2.CreditNoteIssued(
        credit_note_id=encode(Prefix.CREDIT_NOTE, row.id),
        number=row.number,
        invoice_id=encode(Prefix.INVOICE, row.invoice_id),
        customer_id=encode(Prefix.CUSTOMER, row.customer_id),
        total=wire_money(row.total, row.currency),
        to_credit_balance=wire_money(row.to_credit_balance, row.currency),
        amount_due=wire_money(settled.amount_due, settled.currency),
    )
