"""The rim's InvoiceItemService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from decimal import Decimal

from tollway.invoice.v1 import invoice_item_service_pb2 as pb
from tollway.invoice.v1 import invoice_item_service_pb2_grpc as rpc

from billing.domain.decimals import parse_decimal
from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import invoice_items, invoices, manual_invoices
from billing.services.invoice_items import NewItem
from billing.services.money_rows import InvoiceItem
from server.call import Call
from server.convert import to_decimal, to_money, to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token
from server.request_fields import decimal_or_none, instant, named_or_none
from server.services.invoice import to_full_invoice


class InvoiceItemServicer(rpc.InvoiceItemServiceServicer):
    """What people put on invoices."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def CreateInvoice(
        self, request: pb.CreateInvoiceRequest, context: Context
    ) -> pb.CreateInvoiceResponse:
        """See the proto."""
        draft = from_create(request)

        async def work(tx: Connection, call: Call) -> pb.CreateInvoiceResponse:
            made = await manual_invoices.create_invoice(
                tx, call.tenant_id, draft, call.cause, now=call.now
            )
            shown = await invoices.get_invoice(tx, call.tenant_id, made.id)
            return pb.CreateInvoiceResponse(invoice=to_full_invoice(shown))

        return await self._house.mutate(request, pb.CreateInvoiceResponse, work)

    async def AddInvoiceItem(
        self, request: pb.AddInvoiceItemRequest, context: Context
    ) -> pb.AddInvoiceItemResponse:
        """See the proto."""
        item = from_item(request.item, path="item")
        invoice_id = named_or_none(Prefix.INVOICE, request.invoice_id, path="invoice_id")
        subscription_id = named_or_none(
            Prefix.SUBSCRIPTION, request.subscription_id, path="subscription_id"
        )

        async def work(tx: Connection, call: Call) -> pb.AddInvoiceItemResponse:
            owner = await invoice_items.owner_of(
                tx, call.tenant_id, invoice_id=invoice_id, subscription_id=subscription_id
            )
            added = await invoice_items.add_item(tx, call.tenant_id, owner, item, now=call.now)
            return pb.AddInvoiceItemResponse(item=to_item(added))

        return await self._house.mutate(request, pb.AddInvoiceItemResponse, work)

    async def RemoveInvoiceItem(
        self, request: pb.RemoveInvoiceItemRequest, context: Context
    ) -> pb.RemoveInvoiceItemResponse:
        """See the proto."""
        item_id = decode(Prefix.INVOICE_ITEM, request.invoice_item_id, path="invoice_item_id")

        async def work(tx: Connection, call: Call) -> pb.RemoveInvoiceItemResponse:
            await invoice_items.remove_item(tx, call.tenant_id, item_id, now=call.now)
            return pb.RemoveInvoiceItemResponse()

        return await self._house.mutate(request, pb.RemoveInvoiceItemResponse, work)

    async def ListInvoiceItems(
        self, request: pb.ListInvoiceItemsRequest, context: Context
    ) -> pb.ListInvoiceItemsResponse:
        """See the proto."""
        invoice_id = named_or_none(Prefix.INVOICE, request.invoice_id, path="invoice_id")
        subscription_id = named_or_none(
            Prefix.SUBSCRIPTION, request.subscription_id, path="subscription_id"
        )
        after = read_token(request)

        async def work(tx: Connection, call: Call) -> pb.ListInvoiceItemsResponse:
            found = await invoice_items.list_items(
                tx,
                call.tenant_id,
                invoice_id=invoice_id,
                subscription_id=subscription_id,
                after=after,
                limit=page_size(request.page_size) + 1,
            )
            rows, token = cut_page(request, found, [row.id for row in found])
            return pb.ListInvoiceItemsResponse(
                items=[to_item(row) for row in rows], next_page_token=token
            )

        return await self._house.read(work)


def from_create(request: pb.CreateInvoiceRequest) -> manual_invoices.NewInvoice:
    """The invoice to make, as the wire says it. Raises Invalid, InvalidId, InvalidDecimal."""
    return manual_invoices.NewInvoice(
        decode(Prefix.CUSTOMER, request.customer_id, path="customer_id"),
        request.currency_code,
        request.memo,
        instant(request, "finalize_time"),
        [from_item(item, path=f"items[{index}]") for index, item in enumerate(request.items)],
    )


def from_item(item: pb.NewInvoiceItem, *, path: str) -> NewItem:
    """An item as the wire says it. Raises InvalidDecimal."""
    return NewItem(
        item.description,
        parse_decimal(item.quantity, path=f"{path}.quantity") if item.quantity else Decimal(1),
        parse_decimal(item.unit_amount, path=f"{path}.unit_amount"),
        decimal_or_none(item.tax_percent, path=f"{path}.tax_percent"),
    )


def to_item(row: InvoiceItem) -> pb.InvoiceItem:
    """An item for the wire."""
    return pb.InvoiceItem(
        id=encode(Prefix.INVOICE_ITEM, row.id),
        customer_id=encode(Prefix.CUSTOMER, row.customer_id),
        subscription_id=encode(Prefix.SUBSCRIPTION, row.subscription_id)
        if row.subscription_id
        else "",
        invoice_id=encode(Prefix.INVOICE, row.invoice_id) if row.invoice_id else "",
        description=row.description,
        quantity=to_decimal(row.quantity),
        unit_amount=to_decimal(row.unit_amount),
        amount=to_money(row.amount, row.currency),
        tax_percent="" if row.tax_percent is None else to_decimal(row.tax_percent),
        create_time=to_timestamp(row.created_at),
    )
