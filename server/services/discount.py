"""The rim's DiscountService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from tollway.invoice.v1 import discount_service_pb2 as pb
from tollway.invoice.v1 import discount_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import discounts
from billing.services.discounts import DiscountView
from server.call import Call
from server.convert import to_decimal, to_money, to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token
from server.request_fields import decimal_or_none, from_money, named_or_none


class DiscountServicer(rpc.DiscountServiceServicer):
    """Discounts of customers and subscriptions."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def CreateDiscount(
        self, request: pb.CreateDiscountRequest, context: Context
    ) -> pb.CreateDiscountResponse:
        """See the proto."""
        draft = discounts.NewDiscount(
            named_or_none(Prefix.CUSTOMER, request.customer_id, path="customer_id"),
            named_or_none(Prefix.SUBSCRIPTION, request.subscription_id, path="subscription_id"),
            request.display_name,
            decimal_or_none(request.percent, path="percent"),
            from_money(request.amount) if request.HasField("amount") else None,
            request.periods,
        )

        async def work(tx: Connection, call: Call) -> pb.CreateDiscountResponse:
            made = await discounts.create_discount(
                tx, call.tenant_id, draft, call.cause, now=call.now
            )
            return pb.CreateDiscountResponse(discount=to_discount(made))

        return await self._house.mutate(request, pb.CreateDiscountResponse, work)

    async def EndDiscount(
        self, request: pb.EndDiscountRequest, context: Context
    ) -> pb.EndDiscountResponse:
        """See the proto."""
        discount_id = decode(Prefix.DISCOUNT, request.discount_id, path="discount_id")

        async def work(tx: Connection, call: Call) -> pb.EndDiscountResponse:
            ended = await discounts.end_discount(
                tx, call.tenant_id, discount_id, call.cause, now=call.now
            )
            return pb.EndDiscountResponse(discount=to_discount(ended))

        return await self._house.mutate(request, pb.EndDiscountResponse, work)

    async def ListDiscounts(
        self, request: pb.ListDiscountsRequest, context: Context
    ) -> pb.ListDiscountsResponse:
        """See the proto."""
        customer_id = decode(Prefix.CUSTOMER, request.customer_id, path="customer_id")
        before = read_token(request)

        async def work(tx: Connection, call: Call) -> pb.ListDiscountsResponse:
            limit = page_size(request.page_size) + 1
            found = await discounts.list_discounts(
                tx, call.tenant_id, customer_id, before=before, limit=limit
            )
            views, token = cut_page(request, found, [view.row.id for view in found])
            return pb.ListDiscountsResponse(
                discounts=[to_discount(view) for view in views], next_page_token=token
            )

        return await self._house.read(work)


def to_discount(view: DiscountView) -> pb.Discount:
    """A discount for the wire."""
    row = view.row
    discount = pb.Discount(
        id=encode(Prefix.DISCOUNT, row.id),
        customer_id=encode(Prefix.CUSTOMER, row.customer_id),
        subscription_id=encode(Prefix.SUBSCRIPTION, row.subscription_id)
        if row.subscription_id
        else "",
        display_name=row.display_name,
        periods=row.periods or 0,
        periods_used=view.uses,
        end_time=to_timestamp(row.ended_at),
        create_time=to_timestamp(row.created_at),
    )
    if row.percent is not None:
        discount.percent = to_decimal(row.percent)
    elif row.amount is not None:
        discount.amount.CopyFrom(to_money(row.amount, row.currency or ""))
    return discount
