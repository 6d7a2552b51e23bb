"""EventService through a real server: publishing events of one's own, and browsing the log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from tollway.event.v1 import event_service_pb2 as pb

from billing.services.event_list import ListFilter, list_events
from billing.services.keys import Scope
from tests.server.rim import Rim
from tests.services.test_event_log import tell

PUBLISH: Final = "/tollway.event.v1.EventService/PublishEvents"
LIST: Final = "/tollway.event.v1.EventService/ListEvents"
GET: Final = "/tollway.event.v1.EventService/GetEvent"
TRAIL: Final = "/tollway.event.v1.EventService/GetTrail"


def custom(subject: str, resource: str = "flight-1", **fields: Any) -> pb.CustomEvent:
    data = ParseDict(fields.pop("data", {"gate": "B12"}), Struct())
    return pb.CustomEvent(subject=subject, resource_id=resource, data=data, **fields)


async def publish(rim: Rim, *events: pb.CustomEvent, **fields: Any) -> Sequence[pb.PublishedEvent]:
    answer = await rim.call(PUBLISH, pb.PublishEventsRequest(events=events, **fields))
    published: Sequence[pb.PublishedEvent] = answer.events
    return published


async def listed(rim: Rim, **fields: Any) -> list[str]:
    """The ids of all pages."""
    request = pb.ListEventsRequest(**fields)
    ids: list[str] = []
    while True:
        answer: pb.ListEventsResponse = await rim.call(LIST, request)
        ids += [item.event.id for item in answer.events]
        if not answer.next_page_token:
            return ids
        request.page_token = answer.next_page_token


async def test_a_custom_event_is_committed_like_any_other(rim: Rim) -> None:
    told = custom("custom.flight.landed", data={"gate": "B12", "bags": [1, {"heavy": True}]})
    told.metadata["source"] = "tower"
    [first] = await publish(rim, told)
    second, third = await publish(
        rim,
        custom("custom.flight.departed"),
        custom("custom.flight.boarded", causation_id=first.event_id),
    )

    got = (await rim.call(GET, pb.GetEventRequest(event_id=first.event_id))).event
    payload = Struct()
    assert got.data.Unpack(payload)
    assert payload == told.data
    assert got.subject == "custom.flight.landed"
    assert got.resource_id == "flight-1"
    assert dict(got.metadata) == {"source": "tower"}
    assert got.actor.startswith("key_")
    assert [first.resource_version, second.resource_version, third.resource_version] == [1, 2, 3]
    # The one that names its cause stands in that one's trail, the others each in the trail of their call.
    assert third.correlation_id == first.correlation_id != second.correlation_id
    trail = await rim.call(TRAIL, pb.GetTrailRequest(event_id=third.event_id))
    assert [(node.event.id, node.parent) for node in trail.nodes] == [
        (first.event_id, -1),
        (third.event_id, 0),
    ]
    assert await rim.value("SELECT count(*) FROM outbox WHERE subject LIKE 'custom.%'") == 3


async def test_a_request_id_publishes_once(rim: Rim) -> None:
    once = await publish(rim, custom("custom.a"), request_id="the-same")
    again = await publish(rim, custom("custom.a"), request_id="the-same")
    assert list(again) == list(once)
    refusal = await rim.refused(
        PUBLISH, pb.PublishEventsRequest(events=[custom("custom.b")], request_id="the-same")
    )
    assert refusal.reason == "REQUEST_ID_REUSED"
    assert len(await listed(rim, subjects=["custom.*"])) == 1


def deep(levels: int) -> dict[str, Any]:
    return {"in": deep(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (custom("invoice.generated"), "SUBJECT_INVALID"),
        (custom("custom"), "SUBJECT_INVALID"),
        (custom("custom."), "SUBJECT_INVALID"),
        (custom("custom.a..b"), "SUBJECT_INVALID"),
        (custom("custom.Flight"), "SUBJECT_INVALID"),
        (custom("custom.a\n"), "SUBJECT_INVALID"),
        (custom("custom.a", "sub_01h455vb4pex5vsknk084sn02q"), "RESOURCE_RESERVED"),
        (custom("custom.a", "two words"), "INVALID_ARGUMENT"),
        (custom("custom.a", ""), "INVALID_ARGUMENT"),
        (custom("custom.a", data=deep(21)), "PAYLOAD_INVALID"),
        (custom("custom.a", data={"text": "a\0b"}), "PAYLOAD_INVALID"),
        (custom("custom.a", metadata={"note": "a\0b"}), "INVALID_ARGUMENT"),
        (custom("custom.a", data={"text": "x" * 270_000}), "EVENT_TOO_LARGE"),
        (custom("custom.a", causation_id="evt_01h455vb4pex5vsknk084sn02q"), "EVENT_NOT_FOUND"),
        (custom("custom.a", causation_id="sub_01h455vb4pex5vsknk084sn02q"), "INVALID_ID"),
    ],
)
async def test_one_wrong_event_is_refused_by_reason_and_none_of_its_call_is_published(
    rim: Rim, event: pb.CustomEvent, reason: str
) -> None:
    request = pb.PublishEventsRequest(events=[custom("custom.fine"), event])
    assert (await rim.refused(PUBLISH, request)).reason == reason
    assert await listed(rim, subjects=["custom.*"]) == []


async def test_a_number_that_json_cannot_write_is_refused(rim: Rim) -> None:
    event = custom("custom.a")
    event.data.fields["speed"].number_value = float("nan")
    refusal = await rim.refused(PUBLISH, pb.PublishEventsRequest(events=[event]))
    assert refusal.reason == "PAYLOAD_INVALID"
    assert refusal.metadata == {"place": "events[0].data.speed"}


async def test_ids_of_other_systems_that_begin_like_ours_are_free(rim: Rim) -> None:
    [event] = await publish(rim, custom("custom.a", "sub_1MowVVLkdIwHu7ixraBm864M"))
    assert event.resource_version == 1


async def test_the_deepest_payload_that_is_taken_can_be_read_again(rim: Rim) -> None:
    [event] = await publish(rim, custom("custom.a", data=deep(20)))
    got = (await rim.call(GET, pb.GetEventRequest(event_id=event.event_id))).event
    assert got.data.Unpack(Struct())


async def test_more_events_than_one_call_may_have_are_refused(rim: Rim) -> None:
    request = pb.PublishEventsRequest(events=[custom("custom.a")] * 101)
    assert (await rim.refused(PUBLISH, request)).reason == "INVALID_ARGUMENT"


async def test_a_reading_key_publishes_nothing(rim: Rim) -> None:
    request = pb.PublishEventsRequest(events=[custom("custom.a")])
    refusal = await rim.refused(PUBLISH, request, rim.acme.keys[Scope.READ])
    assert refusal.reason == "SCOPE_MISSING"


async def test_events_are_listed_newest_first_in_pages(rim: Rim) -> None:
    ids = [event.event_id for event in await publish(rim, *[custom("custom.a")] * 7)]
    await publish(rim, custom("custom.b"))
    assert await listed(rim, subjects=["custom.a"], page_size=3) == ids[::-1]
    assert await listed(rim, subjects=["custom.a"]) == ids[::-1]


async def test_every_filter_leaves_what_it_names(rim: Rim) -> None:
    [landed, left] = await publish(
        rim, custom("custom.flight.landed"), custom("custom.flight.left", "flight-2")
    )
    [other] = await publish(rim, custom("custom.gate.closed", "gate-1"))
    linked = await tell(rim.databases, rim.acme.id)
    every = await listed(rim)

    assert await listed(rim, subjects=["custom.flight.*"]) == [left.event_id, landed.event_id]
    assert await listed(rim, resource_id="gate-1") == [other.event_id]
    assert await listed(rim, resource_id="gate-1", subjects=["custom.flight.*"]) == []
    assert await listed(rim, correlation_id=left.correlation_id) == [
        left.event_id,
        landed.event_id,
    ]
    assert await listed(
        rim, correlation_id=left.correlation_id, resource_id="flight-2", subjects=["*"]
    ) == [left.event_id]
    assert linked.event_id.version == 7
    assert len(every) == len(set(every)) > 3
    strangers = pb.ListEventsRequest()
    answer = await rim.call(LIST, strangers, rim.other.keys[Scope.READ])
    assert not {item.event.id for item in answer.events} & set(every)


async def test_a_range_of_the_logs_time_is_half_open(rim: Rim) -> None:
    [event] = await publish(rim, custom("custom.a"))
    now = rim.house.clock.now()

    async def within(start_s: float | None, end_s: float | None) -> list[str]:
        request = pb.ListEventsRequest(subjects=["custom.*"])
        if start_s is not None:
            request.time_range.start.FromDatetime(now + timedelta(seconds=start_s))
        if end_s is not None:
            request.time_range.end.FromDatetime(now + timedelta(seconds=end_s))
        return [item.event.id for item in (await rim.call(LIST, request)).events]

    assert await within(-60, 60) == await within(None, None) == [event.event_id]
    assert await within(-60, None) == await within(None, 60) == [event.event_id]
    assert await within(30, None) == await within(None, -30) == []
    backwards = pb.ListEventsRequest()
    backwards.time_range.start.FromDatetime(now)
    backwards.time_range.end.FromDatetime(now)
    assert (await rim.refused(LIST, backwards)).reason == "INVALID_PERIOD"


async def test_a_range_that_ends_with_the_beginning_of_time_is_empty(rim: Rim) -> None:
    await publish(rim, custom("custom.flight.landed"))
    ends = pb.ListEventsRequest()
    ends.time_range.end.seconds = 0
    ends.time_range.end.SetInParent()
    assert not (await rim.call(LIST, ends)).events


async def test_events_are_found_by_how_far_they_have_come(rim: Rim) -> None:
    ids = [event.event_id for event in await publish(rim, *[custom("custom.a")] * 4)]
    async with rim.databases.worker.transaction() as tx:
        rows = "SELECT event_id FROM outbox WHERE subject = 'custom.a' ORDER BY event_id"
        _, failed, dead, done = [row[0] for row in await tx.fetch(rows)]
        await tx.execute(
            "UPDATE outbox SET attempts = 1, last_error = 'x' WHERE event_id = $1", failed
        )
        await tx.execute(
            "INSERT INTO outbox_dead_letters SELECT event_id, purpose, tenant_id, shard, priority,"
            " position, subject, resource, target, replay_id, 8, 'TOO_LARGE', now() FROM outbox"
            " WHERE event_id = $1",
            dead,
        )
        await tx.execute("DELETE FROM outbox WHERE event_id = ANY ($1)", [dead, done])

    async def found(status: str) -> list[str]:
        number = pb.DispatchStatus.Value(f"DISPATCH_STATUS_{status}")
        return await listed(rim, dispatch_status=number, subjects=["custom.*"])

    assert await found("PENDING") == [ids[0]]
    assert await found("FAILED") == [ids[1]]
    assert await found("DEAD_LETTER") == [ids[2]]
    assert await found("DISPATCHED") == [ids[3]]


async def test_a_page_looks_at_a_bounded_number_of_events_and_says_where_to_go_on(
    rim: Rim,
) -> None:
    [wanted] = await publish(rim, custom("custom.rare"))
    await publish(rim, *[custom("custom.often")] * 12)
    rare = ListFilter.of(["custom.rare"])
    before: UUID | None = None
    sizes = []
    while True:
        async with rim.databases.api.transaction(rim.acme.id) as tx:
            page = await list_events(tx, rim.acme.id, rare, before=before, most=10, look_max=5)
        sizes.append(len(page.events))
        if page.reached is None:
            break
        before = page.reached

    assert sum(sizes) == 1
    assert sizes[:2] == [0, 0]
    assert await listed(rim, subjects=["custom.rare"]) == [wanted.event_id]


async def test_a_page_token_goes_on_with_its_own_list_only(rim: Rim) -> None:
    await publish(rim, *[custom("custom.a")] * 3)
    request = pb.ListEventsRequest(subjects=["custom.*"], page_size=2)
    request.page_token = (await rim.call(LIST, request)).next_page_token
    request.resource_id = "flight-1"
    assert (await rim.refused(LIST, request)).reason == "PAGE_TOKEN_INVALID"
