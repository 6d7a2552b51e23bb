"""The rim's SubscriptionService: its requests and answers, between the wire and the services. Invariant: no rule stands
here."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from tollway.subscription.v1 import subscription_service_pb2 as pb

from billing.domain.errors import Invalid
from billing.domain.ids import Prefix, decode, encode
from billing.domain.subscription import SubscriptionStatus
from billing.services import subscriptions
from billing.services.rows import ScheduledChange
from billing.services.scheduled_changes import wire_kind
from billing.services.scheduled_changes import wire_status as wire_change_status
from billing.services.subscription_edits import Change, ItemChange, Proration
from billing.services.subscription_lifecycle import wire_status
from billing.services.subscription_requests import Ends, Later, Migration, Request
from billing.services.subscription_terms import Alignment
from server.call import Call
from server.convert import optional_id, optional_timestamp, to_decimal, to_range, to_timestamp

_ALIGNMENTS: Final = {
    pb.ALIGNMENT_UNSPECIFIED: Alignment.ANNIVERSARY,
    pb.ALIGNMENT_ANNIVERSARY: Alignment.ANNIVERSARY,
    pb.ALIGNMENT_CALENDAR: Alignment.CALENDAR,
}
_PRORATIONS: Final = {
    pb.PRORATION_UNSPECIFIED: Proration.AT_ONCE,
    pb.PRORATION_AT_ONCE: Proration.AT_ONCE,
    pb.PRORATION_NEXT_INVOICE: Proration.NEXT_INVOICE,
    pb.PRORATION_NONE: Proration.NONE,
}
_STATUSES: Final = {wire_status(status): status for status in SubscriptionStatus}

Timed = pb.ChangeSubscriptionRequest | pb.MigrateSubscriptionRequest | pb.CancelSubscriptionRequest
Named = (
    Timed
    | pb.UncancelSubscriptionRequest
    | pb.ListScheduledChangesRequest
    | pb.UpdateSubscriptionRequest
    | pb.ApplyLifecycleRequest
)


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
                decode(Prefix.PRICE, item.price_id, path=f"items[{place}].price_id"),
                item.quantity,
                item.subscription_required,
            )
            for place, item in enumerate(request.items)
        ],
        start_at=optional_timestamp(request, "start_time"),
        trial_days=request.trial_days,
        alignment=_ALIGNMENTS[request.alignment],
        anchor_at=optional_timestamp(request, "anchor_time"),
        anchor_day=request.anchor_day,
        billed_until=optional_timestamp(request, "billed_until_time"),
    )


def from_ends(request: pb.CreateSubscriptionRequest) -> Ends:
    """When the new subscription ends by itself."""
    with_trial = request.trial_end_behavior == pb.TRIAL_END_BEHAVIOR_CANCEL
    return Ends(with_trial, optional_timestamp(request, "end_time"))


def from_filter(request: pb.ListSubscriptionsRequest) -> subscriptions.SubscriptionFilter:
    """Which subscriptions to list. Raises InvalidId."""
    return subscriptions.SubscriptionFilter(
        optional_id(Prefix.CUSTOMER, request.customer_id, path="customer_id"),
        optional_id(Prefix.PLAN, request.plan_id, path="plan_id"),
        _STATUSES.get(request.status),
    )


def subscription_of(request: Named) -> UUID:
    """The subscription that a request names. Raises InvalidId."""
    return decode(Prefix.SUBSCRIPTION, request.subscription_id, path="subscription_id")


def asking(call: Call, subscription_id: UUID, later: Later | None = None) -> Request:
    """What a call asks of a subscription, with its cause."""
    return Request(call.tenant_id, subscription_id, call.cause, call.now, later)


def from_timing(request: Timed) -> Later | None:
    """When something is to happen; None for now. Raises Invalid when two instants are given."""
    at = optional_timestamp(request, "at_time")
    if request.timing == pb.CHANGE_TIMING_UNSPECIFIED:
        return None if at is None else Later(at)
    if at is not None:
        raise Invalid.field("at_time", "give either a timing or an instant.")
    return Later() if request.timing == pb.CHANGE_TIMING_PERIOD_END else None


def from_change(request: pb.ChangeSubscriptionRequest) -> Change:
    """What to change. Raises InvalidId."""
    return Change(
        [
            ItemChange(
                optional_id(Prefix.SUBSCRIPTION_ITEM, item.item_id, path=f"items[{place}].item_id"),
                optional_id(Prefix.PRICE, item.price_id, path=f"items[{place}].price_id"),
                item.quantity,
                item.remove,
                item.subscription_required,
            )
            for place, item in enumerate(request.items)
        ],
        optional_id(Prefix.PLAN, request.plan_id, path="plan_id"),
        request.plan_key,
        optional_timestamp(request, "anchor_time"),
        _PRORATIONS[request.proration],
    )


def from_migration(request: pb.MigrateSubscriptionRequest) -> Migration:
    """Which prices to take. Raises InvalidId."""
    return Migration(
        optional_id(Prefix.PLAN, request.plan_id, path="plan_id"),
        request.plan_key,
        {
            decode(Prefix.SUBSCRIPTION_ITEM, one.item_id, path=f"prices[{place}].item_id"): decode(
                Prefix.PRICE, one.price_id, path=f"prices[{place}].price_id"
            )
            for place, one in enumerate(request.prices)
        },
        _PRORATIONS[request.proration],
    )


def to_scheduled(change: ScheduledChange) -> pb.ScheduledChange:
    """A stored change for the wire."""
    return pb.ScheduledChange(
        id=encode(Prefix.SCHEDULED_CHANGE, change.id),
        subscription_id=encode(Prefix.SUBSCRIPTION, change.subscription_id),
        kind=wire_kind(change.kind),
        status=wire_change_status(change.status),
        due_time=to_timestamp(change.due_at),
        error=change.error,
        create_time=to_timestamp(change.created_at),
        finish_time=to_timestamp(change.finished_at),
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
                subscription_required=item.subscription_required,
            )
            for item in view.items
        ],
        start_time=to_timestamp(row.start_at),
        trial_end_time=to_timestamp(row.trial_end_at),
        current_period=to_range(row.period_start, row.period_end),
        create_time=to_timestamp(row.created_at),
        cancel_time=to_timestamp(row.canceled_at),
        anchor_time=to_timestamp(row.anchor_at),
        billed_until_time=to_timestamp(row.billed_until),
        next_change_time=to_timestamp(row.change_due_at),
        time_zone=row.time_zone,
    )
