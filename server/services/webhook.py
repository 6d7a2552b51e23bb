"""The rim's WebhookService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tollway.webhook.v1 import webhook_service_pb2 as pb
from tollway.webhook.v1 import webhook_service_pb2_grpc as rpc

from billing.domain.address import Network
from billing.domain.errors import Invalid
from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import webhook_endpoints, webhook_secrets, webhooks
from billing.services.rows import Webhook
from server.call import Call
from server.convert import to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token


class WebhookServicer(rpc.WebhookServiceServicer):
    """The endpoints that receive a tenant's events."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def CreateEndpoint(
        self, request: pb.CreateEndpointRequest, context: Context
    ) -> pb.CreateEndpointResponse:
        """See the proto."""
        draft = from_create(request, self._house.allowed_networks)

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
                parked=counts.parked,
                canceled=counts.canceled,
            )
            return pb.GetEndpointResponse(endpoint=to_endpoint(endpoint), deliveries=deliveries)

        return await self._house.read(work)

    async def ListEndpoints(
        self, request: pb.ListEndpointsRequest, context: Context
    ) -> pb.ListEndpointsResponse:
        """See the proto."""
        before = read_token(request)

        async def work(tx: Connection, call: Call) -> pb.ListEndpointsResponse:
            limit = page_size(request.page_size) + 1
            found = await webhook_endpoints.list_endpoints(
                tx, call.tenant_id, before=before, limit=limit
            )
            rows, token = cut_page(request, found, [row.id for row in found])
            return pb.ListEndpointsResponse(endpoints=map(to_endpoint, rows), next_page_token=token)

        return await self._house.read(work)

    async def UpdateEndpoint(
        self, request: pb.UpdateEndpointRequest, context: Context
    ) -> pb.UpdateEndpointResponse:
        """See the proto."""
        endpoint_id = decode(Prefix.WEBHOOK_ENDPOINT, request.endpoint_id, path="endpoint_id")
        change = from_update(request, self._house.allowed_networks)

        async def work(tx: Connection, call: Call) -> pb.UpdateEndpointResponse:
            endpoint = await webhook_endpoints.update_endpoint(
                tx, call.tenant_id, endpoint_id, change, call.cause, now=call.now
            )
            return pb.UpdateEndpointResponse(endpoint=to_endpoint(endpoint))

        return await self._house.mutate(request, pb.UpdateEndpointResponse, work)

    async def EnableEndpoint(
        self, request: pb.EnableEndpointRequest, context: Context
    ) -> pb.EnableEndpointResponse:
        """See the proto."""
        endpoint_id = decode(Prefix.WEBHOOK_ENDPOINT, request.endpoint_id, path="endpoint_id")

        async def work(tx: Connection, call: Call) -> pb.EnableEndpointResponse:
            endpoint = await webhook_endpoints.enable_endpoint(
                tx, call.tenant_id, endpoint_id, call.cause, now=call.now
            )
            return pb.EnableEndpointResponse(endpoint=to_endpoint(endpoint))

        return await self._house.mutate(request, pb.EnableEndpointResponse, work)

    async def DisableEndpoint(
        self, request: pb.DisableEndpointRequest, context: Context
    ) -> pb.DisableEndpointResponse:
        """See the proto."""
        endpoint_id = decode(Prefix.WEBHOOK_ENDPOINT, request.endpoint_id, path="endpoint_id")

        async def work(tx: Connection, call: Call) -> pb.DisableEndpointResponse:
            endpoint = await webhook_endpoints.disable_endpoint(
                tx,
                call.tenant_id,
                endpoint_id,
                webhook_endpoints.DisabledReason.TENANT,
                call.cause,
                now=call.now,
            )
            return pb.DisableEndpointResponse(endpoint=to_endpoint(endpoint))

        return await self._house.mutate(request, pb.DisableEndpointResponse, work)

    async def DeleteEndpoint(
        self, request: pb.DeleteEndpointRequest, context: Context
    ) -> pb.DeleteEndpointResponse:
        """See the proto."""
        endpoint_id = decode(Prefix.WEBHOOK_ENDPOINT, request.endpoint_id, path="endpoint_id")

        async def work(tx: Connection, call: Call) -> pb.DeleteEndpointResponse:
            endpoint = await webhook_endpoints.delete_endpoint(
                tx, call.tenant_id, endpoint_id, call.cause, now=call.now
            )
            return pb.DeleteEndpointResponse(endpoint=to_endpoint(endpoint))

        return await self._house.mutate(request, pb.DeleteEndpointResponse, work)

    async def PingEndpoint(
        self, request: pb.PingEndpointRequest, context: Context
    ) -> pb.PingEndpointResponse:
        """See the proto."""
        endpoint_id = decode(Prefix.WEBHOOK_ENDPOINT, request.endpoint_id, path="endpoint_id")

        async def work(tx: Connection, call: Call) -> pb.PingEndpointResponse:
            event_id = await webhook_endpoints.ping_endpoint(
                tx, call.tenant_id, endpoint_id, call.cause, now=call.now
            )
            return pb.PingEndpointResponse(event_id=encode(Prefix.EVENT, event_id))

        return await self._house.mutate(request, pb.PingEndpointResponse, work)

    async def RotateEndpointSecret(
        self, request: pb.RotateEndpointSecretRequest, context: Context
    ) -> pb.RotateEndpointSecretResponse:
        """See the proto."""
        endpoint_id = decode(Prefix.WEBHOOK_ENDPOINT, request.endpoint_id, path="endpoint_id")

        async def work(tx: Connection, call: Call) -> pb.RotateEndpointSecretResponse:
            secret, ends_at = await webhook_secrets.rotate_secret(
                tx, call.tenant_id, endpoint_id, call.cause, self._house.vault, now=call.now
            )
            return pb.RotateEndpointSecretResponse(
                secret=secret.to_text(), earlier_end_time=to_timestamp(ends_at)
            )

        return await self._house.mutate(request, pb.RotateEndpointSecretResponse, work, secret=True)

    async def ListEndpointSecrets(
        self, request: pb.ListEndpointSecretsRequest, context: Context
    ) -> pb.ListEndpointSecretsResponse:
        """See the proto."""
        endpoint_id = decode(Prefix.WEBHOOK_ENDPOINT, request.endpoint_id, path="endpoint_id")

        async def work(tx: Connection, call: Call) -> pb.ListEndpointSecretsResponse:
            rows = await webhook_secrets.list_secrets(tx, call.tenant_id, endpoint_id, now=call.now)
            return pb.ListEndpointSecretsResponse(
                secrets=[
                    pb.EndpointSecret(
                        create_time=to_timestamp(row.created_at),
                        expire_time=to_timestamp(row.expires_at),
                    )
                    for row in rows
                ]
            )

        return await self._house.read(work)


def from_create(
    request: pb.CreateEndpointRequest, allowed: Sequence[Network]
) -> webhooks.NewEndpoint:
    """The endpoint that is asked for."""
    return webhooks.NewEndpoint(
        request.url,
        request.subjects,
        request.description,
        dict(request.headers),
        dict(request.metadata),
        _payload(request.payload) if request.payload else webhooks.Payload.FAT,
        request.rate_per_second,
        request.schema_version,
        allowed,
    )


def from_update(
    request: pb.UpdateEndpointRequest, allowed: Sequence[Network]
) -> webhook_endpoints.EndpointChange:
    """What the mask names, as the wire says it. Raises Invalid."""
    values: dict[str, Any] = {
        "url": request.url,
        "subjects": list(request.subjects),
        "description": request.description,
        "headers": dict(request.headers),
        "metadata": dict(request.metadata),
        "rate_per_second": request.rate_per_second,
        "schema_version": request.schema_version,
    }
    paths = set(request.update_mask.paths)
    if unknown := sorted(paths - {*values, "payload"}):
        names = ", ".join(webhook_endpoints.CHANGEABLE)
        raise Invalid.field(
            "update_mask", f"{unknown[0]!r} cannot be changed; possible is: {names}"
        )
    if "payload" in paths:
        if not request.payload:
            raise Invalid.field("payload", "must be fat or thin when update_mask names it")
        values["payload"] = _payload(request.payload)
    given = {name: value for name, value in values.items() if name in paths}
    return webhook_endpoints.EndpointChange(**given, etag=request.etag, allowed=allowed)


def _payload(style: pb.PayloadStyle.ValueType) -> webhooks.Payload:
    return webhooks.Payload(pb.PayloadStyle.Name(style).removeprefix("PAYLOAD_STYLE_").lower())


def to_endpoint(endpoint: Webhook) -> pb.Endpoint:
    """A stored endpoint for the wire."""
    return pb.Endpoint(
        id=encode(Prefix.WEBHOOK_ENDPOINT, endpoint.id),
        url=endpoint.url,
        subjects=endpoint.subjects,
        description=endpoint.description,
        status=pb.EndpointStatus.Value(f"ENDPOINT_STATUS_{endpoint.status.upper()}"),
        create_time=to_timestamp(endpoint.created_at),
        headers=json.loads(endpoint.headers),
        metadata=json.loads(endpoint.metadata),
        payload=pb.PayloadStyle.Value(f"PAYLOAD_STYLE_{endpoint.payload.upper()}"),
        etag=webhook_endpoints.etag_of(endpoint),
        disabled_reason=endpoint.disabled_reason,
        rate_per_second=endpoint.rate_per_second,
        schema_version=endpoint.schema_version,
    )
