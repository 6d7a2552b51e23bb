"""The rim's PaymentService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from tollway.invoice.v1 import payment_service_pb2 as pb
from tollway.invoice.v1 import payment_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import payments
from billing.services.money_rows import Payment
from server.call import Call
from server.convert import to_money, to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token
from server.request_fields import from_money, instant, named_or_none


class PaymentServicer(rpc.PaymentServiceServicer):
    """Records payments."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def RecordPayment(
        self, request: pb.RecordPaymentRequest, context: Context
    ) -> pb.RecordPaymentResponse:
        """See the proto."""
        draft = payments.NewPayment(
            decode(Prefix.INVOICE, request.invoice_id, path="invoice_id"),
            from_money(request.amount),
            request.external_reference,
            instant(request, "paid_time"),
        )

        async def work(tx: Connection, call: Call) -> pb.RecordPaymentResponse:
            payment = await payments.record_payment(
                tx, call.tenant_id, draft, call.cause, now=call.now
            )
            return pb.RecordPaymentResponse(payment=to_payment(payment))

        return await self._house.mutate(request, pb.RecordPaymentResponse, work)

    async def ListPayments(
        self, request: pb.ListPaymentsRequest, context: Context
    ) -> pb.ListPaymentsResponse:
        """See the proto."""
        wanted = payments.PaymentFilter(
            named_or_none(Prefix.INVOICE, request.invoice_id, path="invoice_id"),
            named_or_none(Prefix.CUSTOMER, request.customer_id, path="customer_id"),
        )
        before = read_token(request)

        async def work(tx: Connection, call: Call) -> pb.ListPaymentsResponse:
            limit = page_size(request.page_size) + 1
            found = await payments.list_payments(
                tx, call.tenant_id, wanted, before=before, limit=limit
            )
            rows, token = cut_page(request, found, [row.id for row in found])
            return pb.ListPaymentsResponse(
                payments=[to_payment(row) for row in rows], next_page_token=token
            )

        return await self._house.read(work)


def to_payment(row: Payment) -> pb.Payment:
    """A payment for the wire."""
    return pb.Payment(
        id=encode(Prefix.PAYMENT, row.id),
        invoice_id=encode(Prefix.INVOICE, row.invoice_id),
        customer_id=encode(Prefix.CUSTOMER, row.customer_id),
        external_reference=row.external_reference,
        amount=to_money(row.amount, row.currency),
        applied=to_money(row.applied, row.currency),
        paid_time=to_timestamp(row.paid_at),
        create_time=to_timestamp(row.created_at),
    )
