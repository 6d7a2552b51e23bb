"""The rim's SubscriptionService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from tollway.subscription.v1 import subscription_service_pb2 as pb
from tollway.subscription.v1 import subscription_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode
from billing.domain.subscription import SubscriptionAction
from billing.runtime.db import Connection
from billing.services import subscription_requests, subscriptions
from billing.services.subscription_steps import move_subscription
from server.call import Call
from server.house import House
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token
from server.request_fields import masked
from server.services.subscription_convert import (
    asking,
    from_change,
    from_ends,
    from_filter,
    from_migration,
    from_request,
    from_timing,
    subscription_of,
    to_scheduled,
    to_subscription,
)

_ACTIONS = {
    pb.SUBSCRIPTION_ACTION_START_TRIAL: SubscriptionAction.START_TRIAL,
    pb.SUBSCRIPTION_ACTION_ACTIVATE: SubscriptionAction.ACTIVATE,
    pb.SUBSCRIPTION_ACTION_CANCEL: SubscriptionAction.CANCEL,
}


class SubscriptionServicer(rpc.SubscriptionServiceServicer):
    """Which customer has which plan."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def CreateSubscription(
        self, request: pb.CreateSubscriptionRequest, context: Context
    ) -> pb.CreateSubscriptionResponse:
        """See the proto."""
        draft, ends = from_request(request), from_ends(request)

        async def work(tx: Connection, call: Call) -> pb.CreateSubscriptionResponse:
            made = await subscription_requests.subscribe(
                tx, call.tenant_id, draft, ends, call.cause, now=call.now
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

    async def ListSubscriptions(
        self, request: pb.ListSubscriptionsRequest, context: Context
    ) -> pb.ListSubscriptionsResponse:
        """See the proto."""
        before, wanted = read_token(request), from_filter(request)

        async def work(tx: Connection, call: Call) -> pb.ListSubscriptionsResponse:
            limit = page_size(request.page_size) + 1
            found = await subscriptions.list_subscriptions(
                tx, call.tenant_id, wanted, before=before, limit=limit
            )
            views, token = cut_page(request, found, [view.row.id for view in found])
            return pb.ListSubscriptionsResponse(
                subscriptions=map(to_subscription, views), next_page_token=token
            )

        return await self._house.read(work)

    async def ChangeSubscription(
        self, request: pb.ChangeSubscriptionRequest, context: Context
    ) -> pb.ChangeSubscriptionResponse:
        """See the proto."""
        named = subscription_of(request)
        later, change = from_timing(request), from_change(request)

        async def work(tx: Connection, call: Call) -> pb.ChangeSubscriptionResponse:
            asked = await subscription_requests.change_subscription(
                tx, asking(call, named, later), change
            )
            return pb.ChangeSubscriptionResponse(
                subscription=to_subscription(asked.view),
                scheduled_change=to_scheduled(asked.scheduled) if asked.scheduled else None,
            )

        return await self._house.mutate(request, pb.ChangeSubscriptionResponse, work)

    async def MigrateSubscription(
        self, request: pb.MigrateSubscriptionRequest, context: Context
    ) -> pb.MigrateSubscriptionResponse:
        """See the proto."""
        named = subscription_of(request)
        later, migration = from_timing(request), from_migration(request)

        async def work(tx: Connection, call: Call) -> pb.MigrateSubscriptionResponse:
            asked = await subscription_requests.migrate_subscription(
                tx, asking(call, named, later), migration
            )
            return pb.MigrateSubscriptionResponse(
                subscription=to_subscription(asked.view),
                scheduled_change=to_scheduled(asked.scheduled) if asked.scheduled else None,
            )

        return await self._house.mutate(request, pb.MigrateSubscriptionResponse, work)

    async def CancelSubscription(
        self, request: pb.CancelSubscriptionRequest, context: Context
    ) -> pb.CancelSubscriptionResponse:
        """See the proto."""
        named = subscription_of(request)
        later, credit = from_timing(request), not request.without_credit

        async def work(tx: Connection, call: Call) -> pb.CancelSubscriptionResponse:
            asked = await subscription_requests.cancel_subscription(
                tx, asking(call, named, later), credit=credit
            )
            return pb.CancelSubscriptionResponse(
                subscription=to_subscription(asked.view),
                scheduled_change=to_scheduled(asked.scheduled) if asked.scheduled else None,
            )

        return await self._house.mutate(request, pb.CancelSubscriptionResponse, work)

    async def UncancelSubscription(
        self, request: pb.UncancelSubscriptionRequest, context: Context
    ) -> pb.UncancelSubscriptionResponse:
        """See the proto."""
        named = subscription_of(request)

        async def work(tx: Connection, call: Call) -> pb.UncancelSubscriptionResponse:
            asked = await subscription_requests.uncancel_subscription(tx, asking(call, named))
            return pb.UncancelSubscriptionResponse(
                subscription=to_subscription(asked.view),
            )

        return await self._house.mutate(request, pb.UncancelSubscriptionResponse, work)

    async def ListScheduledChanges(
        self, request: pb.ListScheduledChangesRequest, context: Context
    ) -> pb.ListScheduledChangesResponse:
        """See the proto."""
        named, before = subscription_of(request), read_token(request)

        async def work(tx: Connection, call: Call) -> pb.ListScheduledChangesResponse:
            found = await subscription_requests.list_scheduled_changes(
                tx,
                call.tenant_id,
                named,
                pending_only=request.pending_only,
                before=before,
                limit=page_size(request.page_size) + 1,
            )
            changes, token = cut_page(request, found, [change.id for change in found])
            return pb.ListScheduledChangesResponse(
                scheduled_changes=map(to_scheduled, changes), next_page_token=token
            )

        return await self._house.read(work)

    async def CancelScheduledChange(
        self, request: pb.CancelScheduledChangeRequest, context: Context
    ) -> pb.CancelScheduledChangeResponse:
        """See the proto."""
        change_id = decode(
            Prefix.SCHEDULED_CHANGE, request.scheduled_change_id, path="scheduled_change_id"
        )

        async def work(tx: Connection, call: Call) -> pb.CancelScheduledChangeResponse:
            change = await subscription_requests.cancel_scheduled_change(
                tx, call.tenant_id, change_id, call.cause, now=call.now
            )
            return pb.CancelScheduledChangeResponse(scheduled_change=to_scheduled(change))

        return await self._house.mutate(request, pb.CancelScheduledChangeResponse, work)

    async def UpdateSubscription(
        self, request: pb.UpdateSubscriptionRequest, context: Context
    ) -> pb.UpdateSubscriptionResponse:
        """See the proto."""
        named = subscription_of(request)
        masked(request.update_mask, ("external_id",))

        async def work(tx: Connection, call: Call) -> pb.UpdateSubscriptionResponse:
            renamed = await subscription_requests.rename_subscription(
                tx, call.tenant_id, named, request.external_id
            )
            return pb.UpdateSubscriptionResponse(subscription=to_subscription(renamed))

        return await self._house.mutate(request, pb.UpdateSubscriptionResponse, work)

    async def ApplyLifecycle(
        self, request: pb.ApplyLifecycleRequest, context: Context
    ) -> pb.ApplyLifecycleResponse:
        """See the proto."""
        named, action = subscription_of(request), _ACTIONS[request.action]

        async def work(tx: Connection, call: Call) -> pb.ApplyLifecycleResponse:
            moved = await move_subscription(tx, asking(call, named), action)
            return pb.ApplyLifecycleResponse(subscription=to_subscription(moved))

        return await self._house.mutate(request, pb.ApplyLifecycleResponse, work)
