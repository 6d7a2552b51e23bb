"""Python SDK: one channel and a stub for each service.

Invariant: every service of the contract is an attribute (tests/sdk/test_python_sdk.py walks the descriptors).
"""

from __future__ import annotations

import json
from types import TracebackType
from typing import Final, Self

import grpc
from tollway.catalog.v1.catalog_service_pb2_grpc import CatalogServiceStub
from tollway.customer.v1.customer_service_pb2_grpc import CustomerServiceStub
from tollway.event.v1.event_service_pb2_grpc import EventServiceStub
from tollway.invoice.v1.credit_note_service_pb2_grpc import CreditNoteServiceStub
from tollway.invoice.v1.credit_service_pb2_grpc import CreditServiceStub
from tollway.invoice.v1.discount_service_pb2_grpc import DiscountServiceStub
from tollway.invoice.v1.document_service_pb2_grpc import DocumentServiceStub
from tollway.invoice.v1.invoice_item_service_pb2_grpc import InvoiceItemServiceStub
from tollway.invoice.v1.invoice_service_pb2_grpc import InvoiceServiceStub
from tollway.invoice.v1.payment_service_pb2_grpc import PaymentServiceStub
from tollway.operations.v1.operations_service_pb2_grpc import OperationsServiceStub
from tollway.rating.v1.rating_service_pb2_grpc import RatingServiceStub
from tollway.replay.v1.replay_service_pb2_grpc import ReplayServiceStub
from tollway.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from tollway.subscription.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from tollway.tenant.v1.tenant_service_pb2_grpc import TenantServiceStub
from tollway.usage.v1.backfill_service_pb2_grpc import BackfillServiceStub
from tollway.usage.v1.threshold_service_pb2_grpc import ThresholdServiceStub
from tollway.usage.v1.usage_service_pb2_grpc import UsageServiceStub
from tollway.webhook.v1.delivery_service_pb2_grpc import WebhookDeliveryServiceStub
from tollway.webhook.v1.recovery_service_pb2_grpc import WebhookRecoveryServiceStub
from tollway.webhook.v1.webhook_service_pb2_grpc import WebhookServiceStub

from tollway_sdk.calls import interceptors

TIMEOUT_S: Final = 30.0
# An invoice of ten thousand lines as a page; the library's own limit is 4 MiB.
ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
# A call that did not reach a server, or met a busy one, is tried again. That is safe for every call: those that change
# something carry a request id, and usage records their own keys.
SERVICE_CONFIG: Final = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "5s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


class Tollway:
    """A connection to Tollway, to be used in one event loop.

    `credentials` turn TLS on: `grpc.ssl_channel_credentials()` trusts what the machine trusts, and takes a client's
    certificate too. Without them the line is plain, which a server accepts on its own machine only. `timeout_s` is
    the deadline of a call that gives none; streams have none. `tenant` is for operators' keys: the tenant to act for.
    """

    def __init__(
        self,
        address: str,
        key: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        tenant: str = "",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        chain = interceptors(key, tenant, timeout_s)
        options = [
            ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
            ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
        ]
        channel = (
            grpc.aio.insecure_channel(address, options, interceptors=chain)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options, interceptors=chain)
        )
        self.channel = channel
        self.backfills = BackfillServiceStub(channel)
        self.catalog = CatalogServiceStub(channel)
        self.credit_notes = CreditNoteServiceStub(channel)
        self.credits = CreditServiceStub(channel)
        self.customers = CustomerServiceStub(channel)
        self.discounts = DiscountServiceStub(channel)
        self.documents = DocumentServiceStub(channel)
        self.events = EventServiceStub(channel)
        self.invoice_items = InvoiceItemServiceStub(channel)
        self.invoices = InvoiceServiceStub(channel)
        self.operations = OperationsServiceStub(channel)
        self.payments = PaymentServiceStub(channel)
        self.rating = RatingServiceStub(channel)
        self.replays = ReplayServiceStub(channel)
        self.scheduler = SchedulerServiceStub(channel)
        self.subscriptions = SubscriptionServiceStub(channel)
        self.tenants = TenantServiceStub(channel)
        self.thresholds = ThresholdServiceStub(channel)
        self.usage = UsageServiceStub(channel)
        self.webhook_deliveries = WebhookDeliveryServiceStub(channel)
        self.webhook_recoveries = WebhookRecoveryServiceStub(channel)
        self.webhooks = WebhookServiceStub(channel)

    async def close(self) -> None:
        """Ends the connection, and every call on it."""
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
