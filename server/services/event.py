"""The rim's EventService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from tollway.event.v1 import event_pb2
from tollway.event.v1 import event_service_pb2 as pb
from tollway.event.v1 import event_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode
from billing.runtime.db import Connection
from billing.services import event_feed, event_log
from billing.services.event_feed import FeedFilter, Positions
from server.call import Call, current_call
from server.feed import watch
from server.house import House
from server.interceptor import Context

_STATUS: Final = {
    "pending": pb.DISPATCH_STATUS_PENDING,
    "dispatched": pb.DISPATCH_STATUS_DISPATCHED,
    "failed": pb.DISPATCH_STATUS_FAILED,
    "dead_letter": pb.DISPATCH_STATUS_DEAD_LETTER,
}


class EventServicer(rpc.EventServiceServicer):
    """The log of events."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def GetEvent(self, request: pb.GetEventRequest, context: Context) -> pb.GetEventResponse:
        """See the proto."""
        event_id = decode(Prefix.EVENT, request.event_id, path="event_id")

        async def work(tx: Connection, call: Call) -> pb.GetEventResponse:
            logged = await event_log.get_event(tx, call.tenant_id, event_id)
            return pb.GetEventResponse(
                event=event_pb2.Event.FromString(logged.envelope),
                dispatch_status=_STATUS[logged.dispatch_status],
            )

        return await self._house.read(work)

    async def GetTrail(self, request: pb.GetTrailRequest, context: Context) -> pb.GetTrailResponse:
        """See the proto."""

        async def work(tx: Connection, call: Call) -> pb.GetTrailResponse:
            trail = await event_log.get_trail(
                tx,
                call.tenant_id,
                await _start(tx, call.tenant_id, request),
                link_depth=request.link_depth or event_log.LINK_DEPTH_DEFAULT,
            )
            return _to_trail(trail)

        return await self._house.read(work, snapshot=True)

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        """See the proto."""
        wanted = FeedFilter.of(request.subjects, request.resource_id)
        start = request.WhichOneof("start")
        call = current_call()
        if start == "cursor":
            begin: Positions | None = event_feed.decode_cursor(call.tenant_id, request.cursor)
        else:
            begin = {} if start == "from_beginning" and request.from_beginning else None
        async for envelope, positions in watch(self._house.api, call.tenant_id, begin, wanted):
            yield pb.WatchEventsResponse(
                event=event_pb2.Event.FromString(envelope) if envelope else None,
                cursor=event_feed.encode_cursor(call.tenant_id, positions),
            )


async def _start(tx: Connection, tenant_id: UUID, request: pb.GetTrailRequest) -> UUID:
    """The correlation id that a trail starts from."""
    match request.WhichOneof("start"):
        case "event_id":
            event_id = decode(Prefix.EVENT, request.event_id, path="event_id")
            return await event_log.correlation_of_event(tx, tenant_id, event_id)
        case "resource_id":
            return await event_log.correlation_of_resource(tx, tenant_id, request.resource_id)
        case _:
            return decode(Prefix.CORRELATION, request.correlation_id, path="correlation_id")


def _to_trail(trail: event_log.Trail) -> pb.GetTrailResponse:
    return pb.GetTrailResponse(
        nodes=[
            pb.TrailNode(
                event=event_pb2.Event.FromString(node.envelope),
                parent=node.parent,
                link_distance=node.link_distance,
            )
            for node in trail.nodes
        ],
        truncated=trail.truncated,
    )
