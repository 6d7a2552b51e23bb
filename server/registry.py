"""The rim: every service of the contract and the class that serves it.

Invariant: a service that the contract has is registered here: a house test walks the descriptors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc.aio
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from tollway.catalog.v1.catalog_service_pb2_grpc import (
    add_CatalogServiceServicer_to_server as add_catalog,
)
from tollway.customer.v1.customer_service_pb2_grpc import (
    add_CustomerServiceServicer_to_server as add_customer,
)
from tollway.event.v1.event_service_pb2_grpc import add_EventServiceServicer_to_server as add_event
from tollway.invoice.v1.invoice_service_pb2_grpc import (
    add_InvoiceServiceServicer_to_server as add_invoice,
)
from tollway.operations.v1.operations_service_pb2_grpc import (
    add_OperationsServiceServicer_to_server as add_operations,
)
from tollway.rating.v1.rating_service_pb2_grpc import (
    add_RatingServiceServicer_to_server as add_rating,
)
from tollway.replay.v1.replay_service_pb2_grpc import (
    add_ReplayServiceServicer_to_server as add_replay,
)
from tollway.scheduler.v1.scheduler_service_pb2_grpc import (
    add_SchedulerServiceServicer_to_server as add_scheduler,
)
from tollway.subscription.v1.subscription_service_pb2_grpc import (
    add_SubscriptionServiceServicer_to_server as add_subscription,
)
from tollway.tenant.v1.tenant_service_pb2_grpc import (
    add_TenantServiceServicer_to_server as add_tenant,
)
from tollway.usage.v1.usage_service_pb2_grpc import add_UsageServiceServicer_to_server as add_usage
from tollway.webhook.v1.webhook_service_pb2_grpc import (
    add_WebhookServiceServicer_to_server as add_webhook,
)

from server.house import House
from server.services.catalog import CatalogServicer
from server.services.customer import CustomerServicer
from server.services.event import EventServicer
from server.services.invoice import InvoiceServicer
from server.services.operations import OperationsServicer
from server.services.rating import RatingServicer
from server.services.replay import ReplayServicer
from server.services.scheduler import SchedulerServicer
from server.services.subscription import SubscriptionServicer
from server.services.tenant import TenantServicer
from server.services.usage import UsageServicer
from server.services.webhook import WebhookServicer

Add = Callable[[Any, grpc.aio.Server], None]
Serve = Callable[[House], object]

SERVICES: Final[Mapping[str, tuple[Add, Serve]]] = {
    "tollway.tenant.v1.TenantService": (add_tenant, TenantServicer),
    "tollway.catalog.v1.CatalogService": (add_catalog, CatalogServicer),
    "tollway.customer.v1.CustomerService": (add_customer, CustomerServicer),
    "tollway.subscription.v1.SubscriptionService": (add_subscription, SubscriptionServicer),
    "tollway.usage.v1.UsageService": (add_usage, UsageServicer),
    "tollway.rating.v1.RatingService": (add_rating, RatingServicer),
    "tollway.invoice.v1.InvoiceService": (add_invoice, InvoiceServicer),
    "tollway.webhook.v1.WebhookService": (add_webhook, WebhookServicer),
    "tollway.event.v1.EventService": (add_event, EventServicer),
    "tollway.scheduler.v1.SchedulerService": (add_scheduler, SchedulerServicer),
    "tollway.replay.v1.ReplayService": (add_replay, ReplayServicer),
    "tollway.operations.v1.OperationsService": (add_operations, OperationsServicer),
}

# Reflection speaks both versions; their messages are the same on the wire.
_REFLECTION_V1: Final = "grpc.reflection.v1.ServerReflection"
_REFLECTION_V1ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"


def add_services(server: grpc.aio.Server, house: House) -> None:
    """Registers every service of the contract."""
    for add, serve in SERVICES.values():
        add(serve(house), server)


async def add_standard_services(
    server: grpc.aio.Server, *, with_channelz: bool
) -> health.aio.HealthServicer:
    """Registers health (per service), reflection (v1 and v1alpha) and channelz; returns health."""
    state = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    for name in ("", *SERVICES):
        await state.set(name, health_pb2.HealthCheckResponse.SERVING)
    shown = [*SERVICES, "grpc.health.v1.Health", _REFLECTION_V1ALPHA, _REFLECTION_V1]
    if with_channelz:
        channelz.add_channelz_servicer(server)
        shown.append("grpc.channelz.v1.Channelz")
    reflection.enable_server_reflection(shown, server)
    _add_reflection_v1(server, shown)
    return state


def _add_reflection_v1(server: grpc.aio.Server, shown: list[str]) -> None:
    servicer = reflection.aio.ReflectionServicer(shown)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods = grpc.method_handlers_generic_handler(
        _REFLECTION_V1, {"ServerReflectionInfo": handler}
    )
    server.add_generic_rpc_handlers((methods,))
