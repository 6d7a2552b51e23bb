"""The rim's RatingService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from tollway.invoice.v1.invoice_service_pb2 import LineKind
from tollway.rating.v1 import rating_service_pb2 as pb
from tollway.rating.v1 import rating_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services.charges import RunningCharge, get_charges
from billing.services.quantity_reads import group_of
from server.call import Call
from server.convert import to_decimal, to_money, to_range, to_timestamp
from server.house import House
from server.interceptor import Context


class RatingServicer(rpc.RatingServiceServicer):
    """Shows what usage costs so far."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def GetCharges(
        self, request: pb.GetChargesRequest, context: Context
    ) -> pb.GetChargesResponse:
        """See the proto."""
        named = (
            decode(Prefix.SUBSCRIPTION, request.subscription_id, path="subscription_id")
            if request.subscription_id
            else None
        )

        async def work(tx: Connection, call: Call) -> pb.GetChargesResponse:
            charges = await get_charges(
                tx,
                call.tenant_id,
                subscription_id=named,
                external_id=request.external_subscription_id,
            )
            return pb.GetChargesResponse(
                charges=map(to_charge, charges.rows), failure=charges.failure
            )

        return await self._house.read(work, snapshot=True)


def to_charge(row: RunningCharge) -> pb.Charge:
    """A running charge for the wire."""
    return pb.Charge(
        subscription_item_id=encode(Prefix.SUBSCRIPTION_ITEM, row.item_id),
        meter_id=encode(Prefix.METER, row.meter_id),
        price_id=encode(Prefix.PRICE, row.price_id),
        period=to_range(row.period_start, row.period_end),
        quantity=to_decimal(row.quantity),
        amount=to_money(row.amount, row.currency),
        rate_time=to_timestamp(row.rated_at),
        kind=LineKind.Value(f"LINE_KIND_{row.kind.upper()}"),
        dimensions=dict(zip(row.group_by, group_of(row.group_key), strict=False)),
    )
