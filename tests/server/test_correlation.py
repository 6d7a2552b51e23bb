"""A call's cause goes into its events: the caller's correlation id or a new one, who called, and the trace."""

from __future__ import annotations

import pytest
from tollway.event.v1 import event_pb2

from billing.domain.ids import Prefix, encode
from billing.runtime.ids import new_id
from billing.services.keys import Scope
from tests.server.rim import Rim

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_the_callers_correlation_id_and_trace_are_kept(rim: Rim) -> None:
    given = encode(Prefix.CORRELATION, new_id(rim.clock.now()))
    metadata = (("tollway-correlation-id", given), ("traceparent", TRACE))
    await rim.customer(metadata=metadata)
    event = await _event(rim)
    assert (event.correlation_id, event.traceparent) == (given, TRACE)
    assert event.causation_id == ""


@pytest.mark.parametrize("given", ["", "mine", "cus_01h455vb4pex5vsknk084sn02q", "x" * 500])
async def test_what_is_no_correlation_id_is_replaced_by_a_new_one(rim: Rim, given: str) -> None:
    metadata = (("tollway-correlation-id", given),) if given else ()
    await rim.customer("A", metadata=metadata)
    event = await _event(rim)
    assert event.correlation_id.startswith("cor_")
    assert event.correlation_id != given


@pytest.mark.parametrize("given", ["", "00-1-2-3", TRACE + "\tx", "ff" + TRACE[2:], "x" * 200])
async def test_a_broken_trace_is_left_out(rim: Rim, given: str) -> None:
    await rim.customer(metadata=(("traceparent", given.replace("\t", " ")),))
    assert (await _event(rim)).traceparent == ""


async def test_two_calls_have_two_correlations(rim: Rim) -> None:
    await rim.customer("A")
    first = (await _event(rim)).correlation_id
    await rim.customer("B")
    assert (await _event(rim)).correlation_id != first


async def test_the_actor_is_the_key_and_an_operator_is_told_apart(rim: Rim) -> None:
    await rim.customer("A", rim.acme.keys[Scope.WRITE])
    assert (await _event(rim)).actor.startswith("key_")
    await rim.customer("B", rim.operator, metadata=(("tollway-tenant", rim.acme.name),))
    assert (await _event(rim)).actor.startswith("opr_")


async def _event(rim: Rim) -> event_pb2.Event:
    """The latest customer's."""
    envelope = await rim.value(
        "SELECT envelope FROM billing_events WHERE subject = 'customer.created' ORDER BY id DESC"
    )
    return event_pb2.Event.FromString(envelope)
