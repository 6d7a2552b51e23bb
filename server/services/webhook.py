"""The rim's WebhookService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from tollway.webhook.v1 import webhook_service_pb2 as pb
from tollway.webhook.v1 import webhook_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import webhooks
from billing.services.rows import Webhook
from server.call import Call
from server.convert import to_timestamp
from server.house import House
from server.interceptor import Context


class WebhookServicer(rpc.WebhookServiceServicer):
    """The endpoints that receive a tenant's events."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def CreateEndpoint(
        self, request: pb.CreateEndpointRequest, context: Context
    ) -> pb.CreateEndpointResponse:
        """See the proto."""
        draft = webhooks.NewEndpoint(request.url, request.subjects, request.description)

        async def work(tx: Connection, call: Call) -> pb.CreateEndpointResponse:
            endpoint, secret = await webhooks.create_endpoint(
                tx, call.tenant_id, draft, call.cause, self._house.vault, now=call.now
            )
            return pb.CreateEndpointResponse(
                endpoint=to_endpoint(endpoint), secret=secret.to_text()
            )

        return await self._house.mutate(request, pb.CreateEndpointResponse, work, secret=True)

    async def GetEndpoint(
        self, request: pb.GetEndpointRequest, context: Context
    ) -> pb.GetEndpointResponse:
        """See the proto."""
        endpoint_id = decode(Prefix.WEBHOOK_ENDPOINT, request.endpoint_id, path="endpoint_id")

        async def work(tx: Connection, call: Call) -> pb.GetEndpointResponse:
            endpoint, counts = await webhooks.get_endpoint(tx, call.tenant_id, endpoint_id)
            deliveries = pb.DeliveryCounts(
                matched=counts.matched,
                delivered=counts.delivered,
                pending=counts.pending,
                dead=counts.dead,
            )
            return pb.GetEndpointResponse(endpoint=to_endpoint(endpoint), deliveries=deliveries)

        return await self._house.read(work)


def to_endpoint(endpoint: Webhook) -> pb.Endpoint:
    """A stored endpoint for the wire."""
    return pb.Endpoint(
        id=encode(Prefix.WEBHOOK_ENDPOINT, endpoint.id),
        url=endpoint.url,
        subjects=endpoint.subjects,
        description=endpoint.description,
        status=pb.EndpointStatus.Value(f"ENDPOINT_STATUS_{endpoint.status.upper()}"),
        create_time=to_timestamp(endpoint.created_at),
    )
