"""The rim's WebhookRecoveryService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from tollway.webhook.v1 import recovery_service_pb2 as pb
from tollway.webhook.v1 import recovery_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import webhook_recoveries
from billing.services.rows import WebhookRecovery
from billing.services.webhook_recoveries import RATE_DEFAULT, RecoveryFilter
from server.call import Call
from server.convert import from_timestamp, to_timestamp
from server.house import House
from server.interceptor import Context
from server.paging import cut_page, page_size, read_token

_STATE: Final[dict[int, str]] = {
    pb.RECOVERABLE_STATE_DEAD: "dead",
    pb.RECOVERABLE_STATE_MISSED: "missed",
    pb.RECOVERABLE_STATE_CANCELED: "canceled",
    pb.RECOVERABLE_STATE_DELIVERED: "delivered",
}


class WebhookRecoveryServicer(rpc.WebhookRecoveryServiceServicer):
    """Jobs that send a stretch of events again."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def PreviewRecovery(
        self, request: pb.PreviewRecoveryRequest, context: Context
    ) -> pb.PreviewRecoveryResponse:
        """See the proto."""
        wanted = from_filter(request.filter)

        async def work(tx: Connection, call: Call) -> pb.PreviewRecoveryResponse:
            told = await webhook_recoveries.preview(tx, call.tenant_id, wanted, now=call.now)
            return pb.PreviewRecoveryResponse(
                matched=told.chosen,
                estimated_seconds=told.seconds,
                counts=[
                    pb.RecoverableCount(state=state, subject=subject, events=events, taken=taken)
                    for (state, subject), (events, taken) in told.counts.items()
                ],
                truncated=told.truncated,
            )

        return await self._house.read(work, snapshot=True)

    async def RecoverEndpoint(
        self, request: pb.RecoverEndpointRequest, context: Context
    ) -> pb.RecoverEndpointResponse:
        """See the proto."""
        wanted = from_filter(request.filter)

        async def work(tx: Connection, call: Call) -> pb.RecoverEndpointResponse:
            recovery = await webhook_recoveries.start(
                tx, call.tenant_id, wanted, call.cause.actor, request.note, now=call.now
            )
            return pb.RecoverEndpointResponse(recovery=to_recovery(recovery))

        return await self._house.mutate(request, pb.RecoverEndpointResponse, work)

    async def GetRecovery(
        self, request: pb.GetRecoveryRequest, context: Context
    ) -> pb.GetRecoveryResponse:
        """See the proto."""
        recovery_id = decode(Prefix.RECOVERY, request.recovery_id, path="recovery_id")

        async def work(tx: Connection, call: Call) -> pb.GetRecoveryResponse:
            recovery = await webhook_recoveries.get(tx, call.tenant_id, recovery_id)
            return pb.GetRecoveryResponse(recovery=to_recovery(recovery))

        return await self._house.read(work)

    async def ListRecoveries(
        self, request: pb.ListRecoveriesRequest, context: Context
    ) -> pb.ListRecoveriesResponse:
        """See the proto."""
        webhook_id: UUID | None = None
        if request.endpoint_id:
            webhook_id = decode(Prefix.WEBHOOK_ENDPOINT, request.endpoint_id, path="endpoint_id")
        before = read_token(request)

        async def work(tx: Connection, call: Call) -> pb.ListRecoveriesResponse:
            most = page_size(request.page_size) + 1
            found = await webhook_recoveries.list_of(
                tx, call.tenant_id, webhook_id, before=before, most=most
            )
            rows, token = cut_page(request, found, [row.id for row in found])
            return pb.ListRecoveriesResponse(
                recoveries=map(to_recovery, rows), next_page_token=token
            )

        return await self._house.read(work)

    async def CancelRecovery(
        self, request: pb.CancelRecoveryRequest, context: Context
    ) -> pb.CancelRecoveryResponse:
        """See the proto."""
        recovery_id = decode(Prefix.RECOVERY, request.recovery_id, path="recovery_id")

        async def work(tx: Connection, call: Call) -> pb.CancelRecoveryResponse:
            recovery = await webhook_recoveries.cancel(
                tx, call.tenant_id, recovery_id, now=call.now
            )
            return pb.CancelRecoveryResponse(recovery=to_recovery(recovery))

        return await self._house.mutate(request, pb.CancelRecoveryResponse, work)


def from_filter(asked: pb.RecoveryFilter) -> RecoveryFilter:
    """Which events are asked for."""
    return RecoveryFilter(
        decode(Prefix.WEBHOOK_ENDPOINT, asked.endpoint_id, path="filter.endpoint_id"),
        from_timestamp(asked.since, path="filter.since"),
        from_timestamp(asked.until, path="filter.until") if asked.HasField("until") else None,
        list(asked.subjects),
        [_STATE[state] for state in asked.states],
        asked.rate_per_second or RATE_DEFAULT,
    )


def to_recovery(row: WebhookRecovery) -> pb.Recovery:
    """A stored recovery for the wire."""
    return pb.Recovery(
        id=encode(Prefix.RECOVERY, row.id),
        endpoint_id=encode(Prefix.WEBHOOK_ENDPOINT, row.webhook_id),
        status=pb.RecoveryStatus.Value(f"RECOVERY_STATUS_{row.status.upper()}"),
        matched=row.matched,
        made=row.made,
        rate_per_second=row.rate_per_second,
        actor=row.actor,
        note=row.note,
        create_time=to_timestamp(row.created_at),
        finish_time=to_timestamp(row.finished_at),
    )
