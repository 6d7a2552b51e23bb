"""Subscriptions, invoices and test clocks as a client meets them: a real server, real calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from tollway.invoice.v1 import invoice_service_pb2 as invoice
from tollway.invoice.v1 import invoice_service_pb2_grpc as invoice_rpc
from tollway.scheduler.v1 import scheduler_service_pb2 as schedule
from tollway.scheduler.v1 import scheduler_service_pb2_grpc as schedule_rpc
from tollway.subscription.v1 import subscription_service_pb2 as subscription
from tollway.subscription.v1 import subscription_service_pb2_grpc as subscription_rpc

from billing.runtime.vault import Vault
from billing.services import keys
from server.house import House
from server.services.invoice import InvoiceServicer
from server.services.scheduler import SchedulerServicer
from server.services.subscription import SubscriptionServicer
from tests.conftest import Databases
from tests.driver import DAY, HOUR, Driver, house_of, subscription_text, utc
from tests.server.rim import interceptor

START = utc(2024, 5, 1)


class Client:
    """The three services over one channel, with an admin key."""

    def __init__(self, channel: grpc.aio.Channel, secret: str) -> None:
        self.metadata = (("authorization", f"Bearer {secret}"),)
        self.subscriptions = subscription_rpc.SubscriptionServiceStub(channel)
        self.invoices = invoice_rpc.InvoiceServiceStub(channel)
        self.clocks = schedule_rpc.SchedulerServiceStub(channel)


@pytest.fixture
async def house(databases: Databases) -> Driver:
    house = await house_of(databases, START)
    await house.customer("UA")
    await house.plan(fee="49.00", per_minute="0.10")
    return house


@pytest.fixture
async def client(databases: Databases, house: Driver) -> AsyncIterator[Client]:
    server = grpc.aio.server(interceptors=[interceptor(databases)])
    ours = House(databases.api, databases.worker, databases.clock, Vault(bytes(32)))
    subscription_rpc.add_SubscriptionServiceServicer_to_server(SubscriptionServicer(ours), server)
    invoice_rpc.add_InvoiceServiceServicer_to_server(InvoiceServicer(ours), server)
    schedule_rpc.add_SchedulerServiceServicer_to_server(SchedulerServicer(ours), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with databases.worker.transaction() as tx:
        draft = keys.NewKey("test", (keys.Scope.ADMIN,))
        _, secret = await keys.create_key(tx, house.tenant_id, draft, house.cause(), now=house.now)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Client(channel, secret)
    await server.stop(None)


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The code and the reason of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    for key, value in raised.value.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            info = error_details_pb2.ErrorInfo()
            status_pb2.Status.FromString(value).details[0].Unpack(info)
            return raised.value.code(), info.reason
    raise AssertionError("the error carries no details")


def stamp(instant: Any) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(instant)
    return made


async def test_a_subscription_is_created_once_per_request_id_and_read_again(client: Client) -> None:
    request = subscription.CreateSubscriptionRequest(
        request_id="one",
        external_customer_id="UA",
        plan_key="plan",
        external_id="sub-UA",
        trial_days=7,
        alignment=subscription.ALIGNMENT_CALENDAR,
    )
    first = await client.subscriptions.CreateSubscription(request, metadata=client.metadata)
    again = await client.subscriptions.CreateSubscription(request, metadata=client.metadata)
    read = await client.subscriptions.GetSubscription(
        subscription.GetSubscriptionRequest(external_id="sub-UA"), metadata=client.metadata
    )

    made = first.subscription
    assert again.subscription == made == read.subscription
    assert made.status == subscription.SUBSCRIPTION_STATUS_CREATED
    assert made.alignment == subscription.ALIGNMENT_CALENDAR
    assert [item.quantity for item in made.items] == ["1", "1"]
    assert made.start_time == stamp(START)
    assert made.trial_end_time == stamp(START + 7 * DAY)
    assert not made.HasField("current_period")


async def test_refusals_carry_their_reasons(client: Client, house: Driver) -> None:
    await house.subscribe()
    create, get = client.subscriptions.CreateSubscription, client.subscriptions.GetSubscription
    request = subscription.CreateSubscriptionRequest(external_customer_id="UA", plan_key="plan")
    assert await refused(create(request, metadata=client.metadata)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "METER_ALREADY_PRICED",
    )
    request.start_time.CopyFrom(stamp(START - 40 * DAY))
    assert (await refused(create(request, metadata=client.metadata)))[1] == "TIMESTAMP_TOO_OLD"
    nothing = subscription.GetSubscriptionRequest(subscription_id="sub_1")
    assert (await refused(get(nothing, metadata=client.metadata)))[1] == "INVALID_ID"
    nobody = subscription.GetSubscriptionRequest(external_id="nobody")
    assert (await refused(get(nobody, metadata=client.metadata)))[1] == "SUBSCRIPTION_NOT_FOUND"
    wrong = invoice.GetInvoiceRequest(invoice_id="inv_01h455vb4pex5vsknk084sn02q")
    assert (await refused(client.invoices.GetInvoice(wrong, metadata=client.metadata)))[1] == (
        "INVOICE_NOT_FOUND"
    )
    page = invoice.ListInvoicesRequest(page_token="AAAA")
    assert (await refused(client.invoices.ListInvoices(page, metadata=client.metadata)))[1] == (
        "PAGE_TOKEN_INVALID"
    )


async def test_invoices_are_shown_as_drafts_and_final_and_listed_by_pages(
    client: Client, house: Driver
) -> None:
    await house.subscribe()
    await house.advance(START + 30 * DAY)
    await house.use(START + DAY, "12.5")
    await house.advance(utc(2024, 6, 1) + HOUR / 2)

    request = invoice.ListInvoicesRequest(page_size=1)
    first = await client.invoices.ListInvoices(request, metadata=client.metadata)
    request.page_token = first.next_page_token
    second = await client.invoices.ListInvoices(request, metadata=client.metadata)
    draft = await client.invoices.GetInvoice(
        invoice.GetInvoiceRequest(invoice_id=first.invoices[0].id), metadata=client.metadata
    )

    assert second.next_page_token == ""
    assert second.invoices[0].number == "INV-000001"
    shown = draft.invoice
    assert shown.status == invoice.INVOICE_STATUS_DRAFT
    assert shown.kind == invoice.INVOICE_KIND_PERIOD
    assert shown.total.minor_units == 4900 + 125
    usage, fee = shown.lines
    assert (usage.kind, usage.quantity, usage.amount.minor_units) == (
        invoice.LINE_KIND_USAGE,
        "12.5",
        125,
    )
    assert [(step.label, step.quantity, step.unit_amount, step.amount) for step in usage.steps] == [
        ("units", "12.5", "0.1", "1.25")
    ]
    assert (fee.kind, fee.period.start) == (invoice.LINE_KIND_FEE, stamp(utc(2024, 6, 1)))


async def test_a_test_clock_is_sent_on_and_tells_where_it_goes(
    client: Client, house: Driver
) -> None:
    target = START + timedelta(days=3)
    advance = schedule.AdvanceTestClockRequest(target_time=stamp(target))
    create = schedule.CreateTestClockRequest(start_time=stamp(START))
    assert (await refused(client.clocks.CreateTestClock(create, metadata=client.metadata)))[1] == (
        "TEST_CLOCK_EXISTS"
    )

    sent = await client.clocks.AdvanceTestClock(advance, metadata=client.metadata)

    assert sent.test_clock.status == schedule.TEST_CLOCK_STATUS_ADVANCING
    assert (sent.test_clock.current_time, sent.test_clock.target_time) == (
        stamp(START),
        stamp(target),
    )
    assert (await refused(client.clocks.AdvanceTestClock(advance, metadata=client.metadata)))[
        1
    ] == ("TEST_CLOCK_ADVANCING")
    await house.walk()
    shown = await client.clocks.GetTestClock(
        schedule.GetTestClockRequest(), metadata=client.metadata
    )
    assert shown.test_clock.status == schedule.TEST_CLOCK_STATUS_READY
    assert shown.test_clock.current_time == stamp(target)


async def test_a_watched_clock_tells_each_state_and_what_happened_until_it_is_there(
    client: Client, house: Driver
) -> None:
    await house.subscribe()
    advance = schedule.AdvanceTestClockRequest(target_time=stamp(START + DAY))
    await client.clocks.AdvanceTestClock(advance, metadata=client.metadata)
    watching = client.clocks.WatchTestClock(
        schedule.WatchTestClockRequest(), metadata=client.metadata
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(house.walk())
        states = [answer.test_clock async for answer in watching]
    assert states[0].status == schedule.TEST_CLOCK_STATUS_ADVANCING
    assert states[-1].status == schedule.TEST_CLOCK_STATUS_READY
    assert (states[-1].from_time, states[-1].current_time) == (stamp(START), stamp(START + DAY))
    happened = {one.subject: one.count for one in states[-1].happened}
    assert happened["billing.cycle.closed"] == happened["invoice.generated"] == 1
    assert happened["test_clock.advanced"] == 1


async def test_a_subscription_is_changed_canceled_and_taken_back_over_the_wire(
    client: Client, house: Driver
) -> None:
    made = await house.subscribe(external_id="sub-UA")
    await house.advance(START + DAY * 3)
    calls, metadata = client.subscriptions, client.metadata
    listed = await calls.ListSubscriptions(
        subscription.ListSubscriptionsRequest(status=subscription.SUBSCRIPTION_STATUS_ACTIVE),
        metadata=metadata,
    )
    (one,) = listed.subscriptions
    assert one.id == subscription_text(made)
    fee = one.items[0].id
    later = subscription.CHANGE_TIMING_PERIOD_END
    changed = await calls.ChangeSubscription(
        subscription.ChangeSubscriptionRequest(
            subscription_id=one.id,
            items=[subscription.ItemChange(item_id=fee, quantity="1")],
            timing=later,
        ),
        metadata=metadata,
    )
    assert changed.scheduled_change.due_time == stamp(utc(2024, 6, 1))
    canceling = await calls.CancelSubscription(
        subscription.CancelSubscriptionRequest(subscription_id=one.id, timing=later),
        metadata=metadata,
    )
    assert canceling.subscription.next_change_time == stamp(utc(2024, 6, 1))
    await calls.UncancelSubscription(
        subscription.UncancelSubscriptionRequest(subscription_id=one.id), metadata=metadata
    )
    pending = await calls.ListScheduledChanges(
        subscription.ListScheduledChangesRequest(subscription_id=one.id, pending_only=True),
        metadata=metadata,
    )
    assert [change.id for change in pending.scheduled_changes] == [changed.scheduled_change.id]
    taken = await calls.CancelScheduledChange(
        subscription.CancelScheduledChangeRequest(scheduled_change_id=changed.scheduled_change.id),
        metadata=metadata,
    )
    assert taken.scheduled_change.status == subscription.SCHEDULED_CHANGE_STATUS_CANCELED
    renamed = await calls.UpdateSubscription(
        subscription.UpdateSubscriptionRequest(
            subscription_id=one.id,
            external_id="sub-1",
            update_mask=FieldMask(paths=["external_id"]),
        ),
        metadata=metadata,
    )
    assert renamed.subscription.external_id == "sub-1"
    ended = await calls.ApplyLifecycle(
        subscription.ApplyLifecycleRequest(
            subscription_id=one.id, action=subscription.SUBSCRIPTION_ACTION_CANCEL
        ),
        metadata=metadata,
    )
    assert ended.subscription.status == subscription.SUBSCRIPTION_STATUS_CANCELED
    again = subscription.ApplyLifecycleRequest(
        subscription_id=one.id, action=subscription.SUBSCRIPTION_ACTION_ACTIVATE
    )
    assert (await refused(calls.ApplyLifecycle(again, metadata=metadata)))[1] == (
        "INVALID_TRANSITION"
    )
    over = subscription.CancelSubscriptionRequest(subscription_id=one.id)
    assert (await refused(calls.CancelSubscription(over, metadata=metadata)))[1] == (
        "SUBSCRIPTION_CANCELED"
    )
