"""The door: what people call a thing instead of its id: an invoice by its number, a customer by the tenant's own id.

Invariant: an id is taken as it is; only another name costs a call, and one that names nothing is refused by itself.
"""

from __future__ import annotations

from datetime import UTC, datetime

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp
from tollway.customer.v1 import customer_service_pb2 as customers
from tollway.customer.v1.customer_service_pb2_grpc import CustomerServiceStub
from tollway.invoice.v1 import invoice_service_pb2 as invoices
from tollway.invoice.v1.invoice_service_pb2_grpc import InvoiceServiceStub
from tollway.scheduler.v1 import scheduler_service_pb2 as scheduler
from tollway.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from tollway.subscription.v1 import subscription_service_pb2 as subscriptions
from tollway.subscription.v1.subscription_service_pb2_grpc import SubscriptionServiceStub

from cli.client import DEADLINE_S, CallFailed, Connection

CUSTOMER_ID = "cus_"


async def invoice_id(channel: grpc.aio.Channel, connection: Connection, named: str) -> str:
    """The id of an invoice that is named by its id (inv_…) or its number (INV-000002)."""
    if named.startswith("inv_"):
        return named
    answer = await InvoiceServiceStub(channel).ListInvoices(
        invoices.ListInvoicesRequest(number=named, page_size=1),
        metadata=connection.metadata,
        timeout=DEADLINE_S,
    )
    if not answer.invoices:
        raise CallFailed(
            f"no invoice has the number {named!r}; `tollway invoices list` shows them all"
        )
    return answer.invoices[0].id


async def customer_id(channel: grpc.aio.Channel, connection: Connection, named: str) -> str:
    """The id of a customer that is named by its id (cus_…) or the tenant's own id of it; empty for none."""
    if not named or named.startswith(CUSTOMER_ID):
        return named
    answer = await CustomerServiceStub(channel).GetCustomer(
        customers.GetCustomerRequest(external_id=named),
        metadata=connection.metadata,
        timeout=DEADLINE_S,
    )
    return answer.customer.id


async def subscription_id(channel: grpc.aio.Channel, connection: Connection, named: str) -> str:
    """The id of a subscription that is named by its id (sub_…) or the tenant's own id of it."""
    if named.startswith("sub_"):
        return named
    answer = await SubscriptionServiceStub(channel).GetSubscription(
        subscriptions.GetSubscriptionRequest(external_id=named),
        metadata=connection.metadata,
        timeout=DEADLINE_S,
    )
    return answer.subscription.id


def customer_fields(named: str) -> dict[str, str]:
    """The same for a request that takes either: the field that the name goes into."""
    if not named:
        return {}
    return {"customer_id" if named.startswith(CUSTOMER_ID) else "external_customer_id": named}


async def business_now(channel: grpc.aio.Channel, connection: Connection) -> Timestamp:
    """The tenant's now: where its test clock stands, if it has one."""
    try:
        answer = await SchedulerServiceStub(channel).GetTestClock(
            scheduler.GetTestClockRequest(), metadata=connection.metadata, timeout=DEADLINE_S
        )
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        now = Timestamp()
        now.FromDatetime(datetime.now(UTC).replace(microsecond=0))
        return now
    return answer.test_clock.current_time
