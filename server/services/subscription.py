"""The rim's SubscriptionService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from tollway.subscription.v1 import subscription_service_pb2 as pb
from tollway.subscription.v1 import subscription_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import subscriptions
from billing.services.subscription_lifecycle import wire_status
from billing.services.subscription_terms import Alignment
from server.call import Call
from server.convert import from_timestamp, to_decimal, to_range, to_timestamp
from server.house import House
from server.interceptor import Context

_ALIGNMENTS = {
    pb.ALIGNMENT_UNSPECIFIED: Alignment.ANNIVERSARY,
    pb.ALIGNMENT_ANNIVERSARY: Alignment.ANNIVERSARY,
    pb.ALIGNMENT_CALENDAR: Alignment.CALENDAR,
}


class SubscriptionServicer(rpc.SubscriptionServiceServicer):
    """Which customer has which plan."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def CreateSubscription(
        self, request: pb.CreateSubscriptionRequest, context: Context
    ) -> pb.CreateSubscriptionResponse:
        """See the proto."""
        draft = from_request(request)

        async def work(tx: Connection, call: Call) -> pb.CreateSubscriptionResponse:
            made = await subscriptions.create_subscription(
                tx, call.tenant_id, draft, call.cause, now=call.now
            )
            return pb.CreateSubscriptionResponse(subscription=to_subscription(made))

        return await self._house.mutate(request, pb.CreateSubscriptionResponse, work)

    async def GetSubscription(
        self, request: pb.GetSubscriptionRequest, context: Context
    ) -> pb.GetSubscriptionResponse:
        """See the proto."""
        named = (
            decode(Prefix.SUBSCRIPTION, request.subscription_id, path="subscription_id")
            if request.WhichOneof("name") == "subscription_id"
            else None
        )

        async def work(tx: Connection, call: Call) -> pb.GetSubscriptionResponse:
            found = await subscriptions.get_subscription(
                tx, call.tenant_id, subscription_id=named, external_id=request.external_id
            )
            return pb.GetSubscriptionResponse(subscription=to_subscription(found))

        return await self._house.read(work)


def from_request(request: pb.CreateSubscriptionRequest) -> subscriptions.NewSubscription:
    """The subscription to make, as the wire says it. Raises InvalidId."""
    return subscriptions.NewSubscription(
        customer_id=decode(Prefix.CUSTOMER, request.customer_id, path="customer_id")
        if request.WhichOneof("customer") == "customer_id"
        else None,
        external_customer_id=request.external_customer_id,
        plan_id=decode(Prefix.PLAN, request.plan_id, path="plan_id")
        if request.WhichOneof("plan") == "plan_id"
        else None,
        plan_key=request.plan_key,
        external_id=request.external_id,
        items=[
            subscriptions.NewItem(
                decode(Prefix.PRICE, item.price_id, path=f"items[{place}].price_id"), item.quantity
            )
            for place, item in enumerate(request.items)
        ],
        start_at=from_timestamp(request.start_time, path="start_time")
        if request.HasField("start_time")
        else None,
        trial_days=request.trial_days,
        alignment=_ALIGNMENTS[request.alignment],
    )


def to_subscription(view: subscriptions.SubscriptionView) -> pb.Subscription:
    """A stored subscription for the wire."""
    row = view.row
    return pb.Subscription(
        id=encode(Prefix.SUBSCRIPTION, row.id),
        external_id=row.external_id or "",
        customer_id=encode(Prefix.CUSTOMER, row.customer_id),
        plan_id=encode(Prefix.PLAN, row.plan_id),
        status=wire_status(row.status),
        currency_code=row.currency,
        alignment=pb.Alignment.Value(f"ALIGNMENT_{row.alignment.upper()}"),
        items=[
            pb.SubscriptionItem(
                id=encode(Prefix.SUBSCRIPTION_ITEM, item.id),
                price_id=encode(Prefix.PRICE, item.price_id),
                quantity=to_decimal(item.quantity),
            )
            for item in view.items
        ],
        start_time=to_timestamp(row.start_at),
        trial_end_time=to_timestamp(row.trial_end_at),
        current_period=to_range(row.period_start, row.period_end),
        create_time=to_timestamp(row.created_at),
    )
