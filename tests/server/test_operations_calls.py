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
