"""Dead letters as an operator meets them: a real server, real calls."""

from __future__ import annotations

from typing import Final

import asyncpg
import grpc
from tollway.operations.v1 import operations_service_pb2 as pb

from billing.domain.ids import Prefix, encode
from billing.runtime.ids import new_id
from tests.server.rim import Rim

SERVICE: Final = "/tollway.operations.v1.OperationsService"


async def bury(rim: Rim, count: int) -> list[str]:
    """Dead letters of a consumer for the tenant `acme`, oldest first; their events' ids."""
    connection = await asyncpg.connect(rim.databases.url)
    events = [new_id(rim.clock.now()) for _ in range(count)]
    try:
        await connection.execute(
            "INSERT INTO router_positions (partition) VALUES (0) ON CONFLICT DO NOTHING"
        )
        for event in events:
            await connection.execute(
                "INSERT INTO router_dead_letters (consumer, resource, resource_version, event_id, tenant_id, partition,"
                " subject, attempts, last_error, died_at) VALUES ('invoice', 'cyc_1', 1, $1, $2, 0,"
                " 'billing.cycle.closed', 10, 'KeyError: 1', now())",
                event,
                rim.acme.id,
            )
    finally:
        await connection.close()
    return [encode(Prefix.EVENT, event) for event in events]


async def test_an_operator_lists_shows_redrives_and_discards(rim: Rim) -> None:
    events = await bury(rim, 3)
    listed: list[pb.DeadLetter] = []
    token = ""
    while len(listed) < 3:
        request = pb.ListDeadLettersRequest(page_size=2, page_token=token)
        page = await rim.call(f"{SERVICE}/ListDeadLetters", request, rim.operator)
        listed += page.dead_letters
        token = page.next_page_token
    assert {dead.event_id for dead in listed} == set(events)
    assert not token

    get = pb.GetDeadLetterRequest(dead_letter_id=listed[0].id)
    shown = (await rim.call(f"{SERVICE}/GetDeadLetter", get, rim.operator)).dead_letter
    assert (shown, shown.last_error) == (listed[0], "KeyError: 1")

    redrive = pb.RedriveDeadLetterRequest(
        dead_letter_id=listed[0].id, reason="mended", request_id="1"
    )
    for _ in range(2):  # The same request answers like the first time.
        answer = await rim.call(f"{SERVICE}/RedriveDeadLetter", redrive, rim.operator)
        assert answer.dead_letter == listed[0]
    discard = pb.DiscardDeadLetterRequest(dead_letter_id=listed[1].id, reason="by hand")
    await rim.call(f"{SERVICE}/DiscardDeadLetter", discard, rim.operator)
    gone = await rim.refused(f"{SERVICE}/DiscardDeadLetter", discard, rim.operator)
    assert (gone.code, gone.reason) == (grpc.StatusCode.NOT_FOUND, "DEAD_LETTER_NOT_FOUND")
    left = await rim.call(f"{SERVICE}/ListDeadLetters", None, rim.operator)
    assert [dead.id for dead in left.dead_letters] == [listed[2].id]


async def test_dead_letters_are_for_operators(rim: Rim) -> None:
    refused = await rim.refused(f"{SERVICE}/ListDeadLetters")
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "OPERATOR_REQUIRED",
    )


async def wait(rim: Rim, consumer: str, versions: int, *, attempts: int = 0) -> list[str]:
    """Events of one resource that wait for a consumer, for the tenant `acme`."""
    events = [new_id(rim.clock.now()) for _ in range(versions)]
    async with rim.owner() as owner:
        await owner.execute(
            "INSERT INTO router_positions (partition) VALUES (0) ON CONFLICT DO NOTHING"
        )
        for version, event in enumerate(events):
            await owner.execute(
                "INSERT INTO router_waiting (consumer, resource, resource_version, event_id, tenant_id, partition,"
                " subject, attempts, next_attempt_at, parked_at)"
                " VALUES ($1, 'cyc_1', $2, $3, $4, 0, 'billing.cycle.closed', $5, now() + interval '1 hour', now())",
                consumer,
                version,
                event,
                rim.acme.id,
                attempts,
            )
    return [encode(Prefix.EVENT, event) for event in events]


async def test_what_waits_is_listed_with_why_page_by_page(rim: Rim) -> None:
    invoices = await wait(rim, "invoice", 3, attempts=2)
    await wait(rim, "usage", 1)
    await wait(rim, "*", 1)
    await wait(rim, "ghost", 1)
    listed: list[pb.WaitingEvent] = []
    token = ""
    while True:
        request = pb.ListWaitingRequest(page_size=4, page_token=token)
        page = await rim.call(f"{SERVICE}/ListWaiting", request, rim.operator)
        listed += page.events
        token = page.next_page_token
        if not token:
            break
    reasons = {
        (e.consumer, pb.WaitReason.Name(e.reason)) for e in listed if e.consumer != "invoice"
    }
    assert reasons == {
        ("usage", "WAIT_REASON_USAGE_PERIOD_TAKEN"),
        ("*", "WAIT_REASON_UNKNOWN_SUBJECT"),
        ("ghost", "WAIT_REASON_UNKNOWN_CONSUMER"),
    }
    head, *followers = [event for event in listed if event.consumer == "invoice"]
    assert (head.event_id, head.reason, head.attempts) == (invoices[0], pb.WAIT_REASON_BACKOFF, 2)
    assert head.HasField("next_attempt_time")
    assert [(f.event_id, f.reason) for f in followers] == [
        (event, pb.WAIT_REASON_FOLLOWER) for event in invoices[1:]
    ]
    assert followers[0].behind_event_id == invoices[0]

    for narrowed, expected in (
        (pb.ListWaitingRequest(consumer="usage"), 1),
        (pb.ListWaitingRequest(tenant_id=rim.acme.name), 6),
        (pb.ListWaitingRequest(tenant_id=rim.other.name), 0),
        (pb.ListWaitingRequest(resource_id="cyc_1", consumer="invoice"), 3),
        (pb.ListWaitingRequest(resource_id="cyc_2"), 0),
    ):
        answer = await rim.call(f"{SERVICE}/ListWaiting", narrowed, rim.operator)
        assert len(answer.events) == expected


async def test_a_pause_is_seen_in_the_status_and_ends_with_the_resume(rim: Rim) -> None:
    await wait(rim, "invoice", 1)
    pause = pb.PauseRequest(consumer="invoice", reason="the rates are wrong", request_id="p")
    made = await rim.call(f"{SERVICE}/Pause", pause, rim.operator)
    assert await rim.call(f"{SERVICE}/Pause", pause, rim.operator) == made
    again = await rim.refused(
        f"{SERVICE}/Pause", pb.PauseRequest(consumer="invoice", reason="?"), rim.operator
    )
    assert (again.code, again.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_PAUSED")
    status = await rim.call(f"{SERVICE}/GetStatus", None, rim.operator)
    assert list(status.pauses) == [made.pause]
    assert (made.pause.consumer, made.pause.reason) == ("invoice", "the rates are wrong")
    [event] = (await rim.call(f"{SERVICE}/ListWaiting", None, rim.operator)).events
    assert event.reason == pb.WAIT_REASON_PAUSED
    # Another's pause is no tenant's business; its own is.
    assert not (await rim.call(f"{SERVICE}/GetStatus")).pauses
    own = pb.PauseRequest(tenant_id=rim.acme.name, reason="an incident")
    await rim.call(f"{SERVICE}/Pause", own, rim.operator)
    assert [p.tenant_id for p in (await rim.call(f"{SERVICE}/GetStatus")).pauses] == [rim.acme.name]

    resume = pb.ResumeRequest(consumer="invoice", reason="mended")
    await rim.call(f"{SERVICE}/Resume", resume, rim.operator)
    gone = await rim.refused(f"{SERVICE}/Resume", resume, rim.operator)
    assert (gone.code, gone.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_PAUSED")
    ghost = pb.PauseRequest(consumer="ghost", reason="?")
    refused = await rim.refused(f"{SERVICE}/Pause", ghost, rim.operator)
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "CONSUMER_NOT_FOUND")
    neither = await rim.refused(f"{SERVICE}/Pause", pb.PauseRequest(reason="?"), rim.operator)
    assert neither.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_lag_tells_what_waits_where(rim: Rim) -> None:
    await wait(rim, "invoice", 2)
    await bury(rim, 1)
    answer = await rim.call(f"{SERVICE}/GetLag", None, rim.operator)
    # The tenants and keys of the rim were emitted, and nobody publishes here.
    pending = await rim.value("SELECT count(*) FROM outbox")
    assert len(answer.shards) == 16
    assert sum(shard.pending for shard in answer.shards) == pending > 0
    assert all(shard.HasField("oldest_time") == bool(shard.pending) for shard in answer.shards)
    [partition] = answer.partitions
    # There is no bus to ask: unknown is not zero.
    assert (partition.partition, partition.HasField("unrouted"), partition.owned) == (
        0,
        False,
        False,
    )
    by_name = {consumer.consumer: consumer for consumer in answer.consumers}
    assert (by_name["invoice"].waiting, by_name["invoice"].dead) == (2, 1)
    assert by_name["invoice"].HasField("oldest_time")
    assert (by_name["feed"].waiting, by_name["*"].waiting) == (0, 0)
