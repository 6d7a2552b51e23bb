"""The rim's InvoiceService. Invariant: convert, call, convert; an invoice is read in one snapshot."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from fractions import Fraction
from functools import partial
from typing import Final, Protocol
from uuid import UUID

from tollway.catalog.v1.catalog_service_pb2 import Aggregation
from tollway.invoice.v1 import invoice_service_pb2 as pb
from tollway.invoice.v1 import invoice_service_pb2_grpc as rpc
from tollway.type.v1 import money_pb2

from billing.domain.decimals import decimal_text, exact_text
from billing.domain.ids import Prefix, decode, encode
from billing.domain.invoice import InvoiceAction, InvoiceKind, InvoiceStatus
from billing.domain.money import Money
from billing.runtime.db import Connection
from billing.services import finalize_now, invoices
from billing.services.invoice_events import wire_status
from billing.services.invoice_explain import LineExplanation, UsageOfLine, explain_line
from billing.services.invoice_lifecycle import move_invoice
from billing.services.invoice_line import Line
from billing.services.invoice_preview import preview_invoice
from billing.services.invoice_voids import VoidOrder, void_invoice
from billing.services.invoices import InvoiceView
from billing.services.parties import Party
from billing.services.rows import Invoice
from billing.services.subscription_preview import Moment, preview_subscription
from server.call import Call
from server.convert import to_money, to_range, to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token
from server.request_fields import instant

_ACTIONS: Final = {
    pb.INVOICE_ACTION_FINALIZE: InvoiceAction.FINALIZE,
    pb.INVOICE_ACTION_SETTLE: InvoiceAction.SETTLE,
    pb.INVOICE_ACTION_VOID: InvoiceAction.VOID,
}


class InvoiceServicer(rpc.InvoiceServiceServicer):
    """Shows invoices, makes drafts final, and takes invoices back."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def GetInvoice(
        self, request: pb.GetInvoiceRequest, context: Context
    ) -> pb.GetInvoiceResponse:
        """See the proto."""
        named = decode(Prefix.INVOICE, request.invoice_id, path="invoice_id")

        async def work(tx: Connection, call: Call) -> pb.GetInvoiceResponse:
            found = await invoices.get_invoice(tx, call.tenant_id, named)
            return pb.GetInvoiceResponse(invoice=to_full_invoice(found))

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
                invoices=[to_invoice(row) for row in rows], next_page_token=token
            )

        return await self._house.read(work)

    async def PreviewInvoice(
        self, request: pb.PreviewInvoiceRequest, context: Context
    ) -> pb.PreviewInvoiceResponse:
        """See the proto."""
        ask = from_preview(request)

        async def work(tx: Connection, call: Call) -> pb.PreviewInvoiceResponse:
            shown = to_full_invoice(await ask(tx, call.tenant_id, now=call.now))
            shown.id = request.invoice_id
            return pb.PreviewInvoiceResponse(invoice=shown)

        return await self._house.read(work, snapshot=True)

    async def ExplainLine(
        self, request: pb.ExplainLineRequest, context: Context
    ) -> pb.ExplainLineResponse:
        """See the proto."""
        named = decode(Prefix.INVOICE, request.invoice_id, path="invoice_id")

        async def work(tx: Connection, call: Call) -> pb.ExplainLineResponse:
            found = await explain_line(tx, call.tenant_id, named, request.line_number)
            return to_explanation(found)

        return await self._house.read(work, snapshot=True)

    async def FinalizeInvoice(
        self, request: pb.FinalizeInvoiceRequest, context: Context
    ) -> pb.FinalizeInvoiceResponse:
        """See the proto."""
        named = decode(Prefix.INVOICE, request.invoice_id, path="invoice_id")

        async def before(tx: Connection, call: Call) -> None:
            await finalize_now.announce(tx, call.tenant_id, named, call.now)

        async def work(tx: Connection, call: Call) -> pb.FinalizeInvoiceResponse:
            await finalize_now.finalize_invoice(tx, call.tenant_id, named, call.cause, now=call.now)
            final = await invoices.get_invoice(tx, call.tenant_id, named)
            return pb.FinalizeInvoiceResponse(invoice=to_full_invoice(final))

        await self._house.before(before)
        return await self._house.mutate(request, pb.FinalizeInvoiceResponse, work)

    async def VoidInvoice(
        self, request: pb.VoidInvoiceRequest, context: Context
    ) -> pb.VoidInvoiceResponse:
        """See the proto."""
        named = decode(Prefix.INVOICE, request.invoice_id, path="invoice_id")
        # It is made again unless the caller says otherwise.
        reissue = request.reissue or not request.HasField("reissue")
        order = VoidOrder(reissue, request.reason)

        async def work(tx: Connection, call: Call) -> pb.VoidInvoiceResponse:
            voided = await void_invoice(tx, call.tenant_id, named, order, call.cause, now=call.now)
            shown = await invoices.get_invoice(tx, call.tenant_id, named)
            again = to_invoice(voided.replacement) if voided.replacement else None
            return pb.VoidInvoiceResponse(invoice=to_full_invoice(shown), replacement=again)

        return await self._house.mutate(request, pb.VoidInvoiceResponse, work)

    async def ApplyLifecycle(
        self, request: pb.ApplyLifecycleRequest, context: Context
    ) -> pb.ApplyLifecycleResponse:
        """See the proto."""
        named = decode(Prefix.INVOICE, request.invoice_id, path="invoice_id")
        action = _ACTIONS[request.action]

        async def before(tx: Connection, call: Call) -> None:
            await finalize_now.announce(tx, call.tenant_id, named, call.now)

        async def work(tx: Connection, call: Call) -> pb.ApplyLifecycleResponse:
            again = await move_invoice(tx, call.tenant_id, named, action, call.cause, now=call.now)
            shown = await invoices.get_invoice(tx, call.tenant_id, named)
            return pb.ApplyLifecycleResponse(
                invoice=to_full_invoice(shown), replacement=to_invoice(again) if again else None
            )

        if action is InvoiceAction.FINALIZE:
            await self._house.before(before)
        return await self._house.mutate(request, pb.ApplyLifecycleResponse, work)


def from_request(request: pb.ListInvoicesRequest) -> invoices.InvoiceFilter:
    """What to list, as the wire says it. Raises Invalid, InvalidId."""
    status = pb.InvoiceStatus.Name(request.status).removeprefix("INVOICE_STATUS_").lower()
    kind = pb.InvoiceKind.Name(request.kind).removeprefix("INVOICE_KIND_").lower()
    return invoices.InvoiceFilter(
        decode(Prefix.CUSTOMER, request.customer_id, path="customer_id")
        if request.customer_id
        else None,
        decode(Prefix.SUBSCRIPTION, request.subscription_id, path="subscription_id")
        if request.subscription_id
        else None,
        InvoiceStatus(status) if request.status else None,
        request.blocked,
        kind=InvoiceKind(kind) if request.kind else None,
        number=request.number or None,
        created_from=instant(request, "created_from"),
        created_until=instant(request, "created_until"),
        finalized_from=instant(request, "finalized_from"),
        finalized_until=instant(request, "finalized_until"),
    )


class Preview(Protocol):
    """What shows an invoice that is not final."""

    def __call__(self, tx: Connection, tenant_id: UUID, *, now: datetime) -> Awaitable[InvoiceView]:
        """The invoice as it would be."""
        ...


def from_preview(request: pb.PreviewInvoiceRequest) -> Preview:
    """What is to be shown: a draft, or the next invoice of a subscription. Raises InvalidId."""
    if request.WhichOneof("what") == "invoice_id":
        invoice_id = decode(Prefix.INVOICE, request.invoice_id, path="invoice_id")
        return partial(preview_invoice, invoice_id=invoice_id)
    is_now = request.moment == pb.PREVIEW_MOMENT_NOW
    return partial(
        preview_subscription,
        subscription_id=decode(
            Prefix.SUBSCRIPTION, request.subscription_id, path="subscription_id"
        ),
        moment=Moment.NOW if is_now else Moment.NEXT_BOUNDARY,
    )


def to_full_invoice(view: InvoiceView) -> pb.Invoice:
    """An invoice for the wire with its lines, its discounts, and who is who."""
    invoice = to_invoice(view.row)
    invoice.lines.extend(to_line(number, line) for number, line in enumerate(view.lines, start=1))
    invoice.discounts.extend(
        pb.InvoiceDiscount(
            discount_id=encode(Prefix.DISCOUNT, used.discount_id),
            display_name=used.display_name,
            percent="" if used.percent is None else decimal_text(used.percent),
            amount=to_money(used.amount.minor_units, used.amount.currency),
        )
        for used in view.discounts
    )
    invoice.seller.CopyFrom(to_party(view.parties.seller))
    invoice.buyer.CopyFrom(to_party(view.parties.buyer))
    return invoice


def to_party(party: Party) -> pb.Party:
    """Seller or buyer for the wire."""
    return pb.Party(
        name=party.name, address=party.address, tax_number=party.tax_number, email=party.email
    )


def to_invoice(row: Invoice) -> pb.Invoice:
    """An invoice for the wire without its lines, as lists show it."""
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
        create_time=to_timestamp(row.created_at),
        discount=to_money(row.discount, row.currency),
        tax=to_money(row.tax, row.currency),
        credit_applied=to_money(row.credit_applied, row.currency),
        to_credit_balance=to_money(row.to_credit_balance, row.currency),
        amount_paid=to_money(row.amount_paid, row.currency),
        amount_credited=to_money(row.amount_credited, row.currency),
        memo=row.memo,
        replaces_invoice_id=encode(Prefix.INVOICE, row.replaces) if row.replaces else "",
        waived=row.waived,
        void_reason=row.void_reason,
        void_time=to_timestamp(row.voided_at),
        due_time=to_timestamp(row.due_at),
    )


def to_line(number: int, line: Line) -> pb.InvoiceLine:
    """A line for the wire, with its derivation."""
    return pb.InvoiceLine(
        line_number=number,
        kind=pb.LineKind.Value(f"LINE_KIND_{line.kind.upper()}"),
        description=line.description,
        subscription_item_id=encode(Prefix.SUBSCRIPTION_ITEM, line.item_id) if line.item_id else "",
        price_id=encode(Prefix.PRICE, line.price_id) if line.price_id else "",
        period=to_range(line.period.start, line.period.end) if line.period else None,
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
        discount=_money(line.discount),
        tax_percent=decimal_text(line.tax_percent or Fraction(0)),
        tax=_money(line.tax),
        invoice_item_id=encode(Prefix.INVOICE_ITEM, line.invoice_item_id)
        if line.invoice_item_id
        else "",
    )


def to_explanation(found: LineExplanation) -> pb.ExplainLineResponse:
    """A line for the wire with all that it rests on."""
    line, usage, booked = found.line, found.usage, found.booked
    return pb.ExplainLineResponse(
        line=to_line(found.number, line),
        price_model=booked.row.model if booked else "",
        price_config=booked.row.config if booked else "",
        exact_amount=exact_text(line.derivation.exact),
        period_share=str(line.derivation.share),
        full_period=to_range(usage.nominal.start, usage.nominal.end) if usage else None,
        earlier=[
            pb.EarlierLine(
                invoice_id=encode(Prefix.INVOICE, one.invoice_id),
                number=one.number,
                line_number=one.line_number,
                amount=_money(one.amount),
                waived=one.waived,
            )
            for one in line.derivation.earlier
        ],
        usage=_usage(usage) if usage else None,
    )


def _usage(usage: UsageOfLine) -> pb.UsageOfLine:
    return pb.UsageOfLine(
        subscription_item_id=encode(Prefix.SUBSCRIPTION_ITEM, usage.row.item_id),
        meter=usage.meter_key,
        aggregation=Aggregation.Value(f"AGGREGATION_{usage.aggregation.upper()}"),
        customer_id=encode(Prefix.CUSTOMER, usage.row.customer_id),
        period=to_range(usage.row.period_start, usage.row.period_end),
        record_count=usage.records,
        first_used_time=to_timestamp(usage.first_used_at),
        last_used_time=to_timestamp(usage.last_used_at),
        amount_now=_money(usage.now),
        amount_billed=_money(usage.billed),
    )


def _money(amount: Money | None) -> money_pb2.Money | None:
    return None if amount is None else to_money(amount.minor_units, amount.currency)
