"""The rim's EventService. Invariant: convert, call, convert; no rule stands here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from tollway.event.v1 import event_pb2
from tollway.event.v1 import event_service_pb2 as pb
from tollway.event.v1 import event_service_pb2_grpc as rpc

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import custom_events, event_feed, event_list, event_log
from billing.services.custom_events import CustomEvent
from billing.services.event_feed import FeedFilter, Positions
from billing.services.event_list import ListFilter
from server.call import Call, current_call
from server.convert import from_timestamp
from server.feed import watch
from server.house import House
from server.interceptor import Context
from server.paging import make_token, page_size, read_token

_STATUS: Final = {
    "pending": pb.DISPATCH_STATUS_PENDING,
    "dispatched": pb.DISPATCH_STATUS_DISPATCHED,
    "failed": pb.DISPATCH_STATUS_FAILED,
    "dead_letter": pb.DISPATCH_STATUS_DEAD_LETTER,
}

_STATUS_NAME: Final[dict[int, str]] = {status: name for name, status in _STATUS.items()}


class EventServicer(rpc.EventServiceServicer):
    """The log of events."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def PublishEvents(
        self, request: pb.PublishEventsRequest, context: Context
    ) -> pb.PublishEventsResponse:
        """See the proto."""
        events = [_to_custom(event, place) for place, event in enumerate(request.events)]

        async def work(tx: Connection, call: Call) -> pb.PublishEventsResponse:
            published = await custom_events.publish(
                tx, call.tenant_id, events, call.cause, now=call.now
            )
            return pb.PublishEventsResponse(
                events=[
                    pb.PublishedEvent(
                        event_id=encode(Prefix.EVENT, event.event_id),
                        resource_version=event.resource_version,
                        correlation_id=encode(Prefix.CORRELATION, event.correlation_id),
                    )
                    for event in published
                ]
            )

        return await self._house.mutate(request, pb.PublishEventsResponse, work)

    async def ListEvents(
        self, request: pb.ListEventsRequest, context: Context
    ) -> pb.ListEventsResponse:
        """See the proto."""
        wanted = _to_list_filter(request)
        before = read_token(request)

        async def work(tx: Connection, call: Call) -> pb.ListEventsResponse:
            page = await event_list.list_events(
                tx, call.tenant_id, wanted, before=before, most=page_size(request.page_size)
            )
            listed = [
                pb.ListedEvent(
                    event=event_pb2.Event.FromString(logged.envelope),
                    dispatch_status=_STATUS[logged.dispatch_status],
                )
                for _, logged in page.events
            ]
            token = make_token(request, page.reached.bytes) if page.reached else ""
            return pb.ListEventsResponse(events=listed, next_page_token=token)

        return await self._house.read(work)

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
                await _starts(tx, call.tenant_id, request),
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
        async for envelope, positions in watch(self._house, call.tenant_id, begin, wanted):
            yield pb.WatchEventsResponse(
                event=event_pb2.Event.FromString(envelope) if envelope else None,
                cursor=event_feed.encode_cursor(call.tenant_id, positions),
            )


def _to_custom(event: pb.CustomEvent, place: int) -> CustomEvent:
    causation_id = None
    if event.causation_id:
        path = f"events[{place}].causation_id"
        causation_id = decode(Prefix.EVENT, event.causation_id, path=path)
    return CustomEvent(
        event.subject, event.resource_id, event.data, dict(event.metadata), causation_id
    )


def _to_list_filter(request: pb.ListEventsRequest) -> ListFilter:
    correlation_id = None
    if request.correlation_id:
        correlation_id = decode(Prefix.CORRELATION, request.correlation_id, path="correlation_id")
    span = request.time_range
    return ListFilter.of(
        request.subjects,
        request.resource_id,
        correlation_id,
        (
            from_timestamp(span.start, path="time_range.start") if span.HasField("start") else None,
            from_timestamp(span.end, path="time_range.end") if span.HasField("end") else None,
        ),
        _STATUS_NAME.get(request.dispatch_status, ""),
    )


async def _starts(tx: Connection, tenant_id: UUID, request: pb.GetTrailRequest) -> frozenset[UUID]:
    """The correlation ids that a trail starts from."""
    match request.WhichOneof("start"):
        case "event_id":
            event_id = decode(Prefix.EVENT, request.event_id, path="event_id")
            return frozenset({await event_log.correlation_of_event(tx, tenant_id, event_id)})
        case "resource_id":
            return await event_log.correlations_of_resource(tx, tenant_id, request.resource_id)
        case _:
            return frozenset(
                {decode(Prefix.CORRELATION, request.correlation_id, path="correlation_id")}
            )


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
