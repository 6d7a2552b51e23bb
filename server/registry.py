"""The rim: every service of the contract and the class that serves it.

Invariant: every service of the contract and every payload of its events stands here; a test walks the descriptors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from tollway.catalog.v1 import catalog_events_pb2
from tollway.catalog.v1.catalog_service_pb2_grpc import (
    add_CatalogServiceServicer_to_server as add_catalog,
)
from tollway.customer.v1 import customer_events_pb2
from tollway.customer.v1.customer_service_pb2_grpc import (
    add_CustomerServiceServicer_to_server as add_customer,
)
from tollway.event.v1.event_service_pb2_grpc import add_EventServiceServicer_to_server as add_event
from tollway.invoice.v1 import (
    credit_events_pb2,
    credit_note_events_pb2,
    discount_events_pb2,
    invoice_events_pb2,
    payment_events_pb2,
)
from tollway.invoice.v1.credit_note_service_pb2_grpc import (
    add_CreditNoteServiceServicer_to_server as add_credit_note,
)
from tollway.invoice.v1.credit_service_pb2_grpc import (
    add_CreditServiceServicer_to_server as add_credit,
)
from tollway.invoice.v1.discount_service_pb2_grpc import (
    add_DiscountServiceServicer_to_server as add_discount,
)
from tollway.invoice.v1.document_service_pb2_grpc import (
    add_DocumentServiceServicer_to_server as add_document,
)
from tollway.invoice.v1.invoice_item_service_pb2_grpc import (
    add_InvoiceItemServiceServicer_to_server as add_invoice_item,
)
from tollway.invoice.v1.invoice_service_pb2_grpc import (
    add_InvoiceServiceServicer_to_server as add_invoice,
)
from tollway.invoice.v1.payment_service_pb2_grpc import (
    add_PaymentServiceServicer_to_server as add_payment,
)
from tollway.operations.v1.operations_service_pb2_grpc import (
    add_OperationsServiceServicer_to_server as add_operations,
)
from tollway.rating.v1 import rating_events_pb2
from tollway.rating.v1.rating_service_pb2_grpc import (
    add_RatingServiceServicer_to_server as add_rating,
)
from tollway.replay.v1 import replay_events_pb2
from tollway.replay.v1.replay_service_pb2_grpc import (
    add_ReplayServiceServicer_to_server as add_replay,
)
from tollway.scheduler.v1 import scheduler_events_pb2
from tollway.scheduler.v1.scheduler_service_pb2_grpc import (
    add_SchedulerServiceServicer_to_server as add_scheduler,
)
from tollway.subscription.v1 import subscription_events_pb2
from tollway.subscription.v1.subscription_service_pb2_grpc import (
    add_SubscriptionServiceServicer_to_server as add_subscription,
)
from tollway.tenant.v1 import tenant_events_pb2
from tollway.tenant.v1.tenant_service_pb2_grpc import (
    add_TenantServiceServicer_to_server as add_tenant,
)
from tollway.usage.v1 import usage_events_pb2
from tollway.usage.v1.backfill_service_pb2_grpc import (
    add_BackfillServiceServicer_to_server as add_backfill,
)
from tollway.usage.v1.threshold_service_pb2_grpc import (
    add_ThresholdServiceServicer_to_server as add_threshold,
)
from tollway.usage.v1.usage_service_pb2_grpc import add_UsageServiceServicer_to_server as add_usage
from tollway.webhook.v1 import webhook_events_pb2
from tollway.webhook.v1.delivery_service_pb2_grpc import (
    add_WebhookDeliveryServiceServicer_to_server as add_webhook_delivery,
)
from tollway.webhook.v1.recovery_service_pb2_grpc import (
    add_WebhookRecoveryServiceServicer_to_server as add_webhook_recovery,
)
from tollway.webhook.v1.webhook_service_pb2_grpc import (
    add_WebhookServiceServicer_to_server as add_webhook,
)

from server.handlers import HandlersByName
from server.house import House
from server.services.backfill import BackfillServicer
from server.services.catalog import CatalogServicer
from server.services.credit import CreditServicer
from server.services.credit_note import CreditNoteServicer
from server.services.customer import CustomerServicer
from server.services.discount import DiscountServicer
from server.services.document import DocumentServicer
from server.services.event import EventServicer
from server.services.invoice import InvoiceServicer
from server.services.invoice_item import InvoiceItemServicer
from server.services.operations import OperationsServicer
from server.services.payment import PaymentServicer
from server.services.rating import RatingServicer
from server.services.replay import ReplayServicer
from server.services.scheduler import SchedulerServicer
from server.services.subscription import SubscriptionServicer
from server.services.tenant import TenantServicer
from server.services.threshold import ThresholdServicer
from server.services.usage import UsageServicer
from server.services.webhook import WebhookServicer
from server.services.webhook_delivery import WebhookDeliveryServicer
from server.services.webhook_recovery import WebhookRecoveryServicer

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Add = Callable[[Any, Any], None]
Serve = Callable[[House], object]

SERVICES: Final[Mapping[str, tuple[Add, Serve]]] = {
    "tollway.tenant.v1.TenantService": (add_tenant, TenantServicer),
    "tollway.catalog.v1.CatalogService": (add_catalog, CatalogServicer),
    "tollway.customer.v1.CustomerService": (add_customer, CustomerServicer),
    "tollway.subscription.v1.SubscriptionService": (add_subscription, SubscriptionServicer),
    "tollway.usage.v1.UsageService": (add_usage, UsageServicer),
    "tollway.usage.v1.BackfillService": (add_backfill, BackfillServicer),
    "tollway.usage.v1.ThresholdService": (add_threshold, ThresholdServicer),
    "tollway.rating.v1.RatingService": (add_rating, RatingServicer),
    "tollway.invoice.v1.InvoiceService": (add_invoice, InvoiceServicer),
    "tollway.invoice.v1.InvoiceItemService": (add_invoice_item, InvoiceItemServicer),
    "tollway.invoice.v1.DocumentService": (add_document, DocumentServicer),
    "tollway.invoice.v1.PaymentService": (add_payment, PaymentServicer),
    "tollway.invoice.v1.CreditNoteService": (add_credit_note, CreditNoteServicer),
    "tollway.invoice.v1.CreditService": (add_credit, CreditServicer),
    "tollway.invoice.v1.DiscountService": (add_discount, DiscountServicer),
    "tollway.webhook.v1.WebhookService": (add_webhook, WebhookServicer),
    "tollway.webhook.v1.WebhookDeliveryService": (add_webhook_delivery, WebhookDeliveryServicer),
    "tollway.webhook.v1.WebhookRecoveryService": (add_webhook_recovery, WebhookRecoveryServicer),
    "tollway.event.v1.EventService": (add_event, EventServicer),
    "tollway.scheduler.v1.SchedulerService": (add_scheduler, SchedulerServicer),
    "tollway.replay.v1.ReplayService": (add_replay, ReplayServicer),
    "tollway.operations.v1.OperationsService": (add_operations, OperationsServicer),
}

# What events carry. Nothing here calls these modules, but reflection shows only what a process has imported, and
# without them a client could not print the payload of an event.
PAYLOADS: Final = (
    catalog_events_pb2,
    credit_events_pb2,
    credit_note_events_pb2,
    customer_events_pb2,
    discount_events_pb2,
    invoice_events_pb2,
    payment_events_pb2,
    rating_events_pb2,
    replay_events_pb2,
    scheduler_events_pb2,
    subscription_events_pb2,
    tenant_events_pb2,
    usage_events_pb2,
    webhook_events_pb2,
)


def add_services(server: grpc.aio.Server, house: House) -> Mapping[str, Handler]:
    """Registers every service of the contract; returns its methods by their full names."""
    by_name = HandlersByName(server)
    for add, serve in SERVICES.values():
        add(serve(house), by_name)
    return by_name.methods
