"""The bytes to and from nats-server, over all inputs: nothing breaks out of its line."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import ProtocolError

from billing.runtime.bus.base import ATTRIBUTES, BusMessage, MessageRefused
from billing.runtime.bus.nats_wire import (
    NatsReceived,
    WireParser,
    attribute_block,
    bus_subject,
    hpub,
    status_of,
)

Parsed = tuple[bytes, bytes, bytes]
headers = st.binary(max_size=40).map(lambda value: b"NATS/1.0\r\nA: " + value + b"\r\n\r\n")
arrivals = st.lists(
    st.tuples(st.sampled_from([b"", *[b"NATS/1.0\r\n\r\n"]]) | headers, st.binary(max_size=80)),
    max_size=12,
)


@given(arrivals, st.lists(st.integers(1, 60), min_size=1, max_size=20), st.booleans())
def test_messages_come_out_whole_however_the_socket_cuts_them(
    sent: list[tuple[bytes, bytes]], cuts: list[int], with_others: bool
) -> None:
    stream = b"".join([wire(block, body, with_others) for block, body in sent])
    assert parsed(pieces(stream, cuts)) == [(b"t.e", block, body) for block, body in sent]


def wire(block: bytes, body: bytes, with_others: bool) -> bytes:
    """One message as nats-server writes it; with a line that is none, and one for a stranger."""
    size = len(block) + len(body)
    other = b"+OK\r\nMSG t.e 9 3\r\nabc\r\n" if with_others else b""
    if block:
        return other + b"HMSG t.e 1 r %d %d\r\n%b%b\r\n" % (len(block), size, block, body)
    return other + b"MSG t.e 1 r %d\r\n%b\r\n" % (size, body)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """The stream in pieces of the given sizes, over and over."""
    out: list[bytes] = []
    while stream:
        size = cuts[len(out) % len(cuts)]
        out.append(stream[:size])
        stream = stream[size:]
    return out


def parsed(chunks: list[bytes]) -> list[Parsed]:
    """What a parser gives to the sink of subscription 1."""
    seen: list[Parsed] = []

    async def feed() -> None:
        parser = WireParser(Client(), lambda _: None)
        parser.sinks[b"1"] = lambda fields, block, body: seen.append((fields[1], block, body))
        for chunk in chunks:
            await parser.parse(chunk)

    asyncio.run(feed())
    return seen


@pytest.mark.parametrize("line", [b"MSG t 1 x\r\n", b"HMSG a 5\r\n", b"MSG\r\n", b"what\r\n"])
def test_a_line_that_no_server_sends_ends_the_connection(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        parsed([line])


def test_a_line_without_end_ends_the_connection() -> None:
    with pytest.raises(ProtocolError):
        parsed([b"MSG " + b"x" * 9000])


@given(
    st.lists(
        st.tuples(st.sampled_from(ATTRIBUTES), st.text(st.characters(exclude_categories=["Cs"]))),
        unique_by=lambda pair: pair[0],
    ),
    st.binary(max_size=50),
)
def test_any_attribute_survives_the_wire_on_its_own_line(
    attributes: list[tuple[str, str]], body: bytes
) -> None:
    sent = BusMessage(0, "tnt_1", "a.b", "k", "evt_1", dict(attributes), body)
    block = attribute_block(sent)
    command = b"".join(hpub("tollway.events.0.tnt_1.a.b", "reply", block, body))

    ((subject, received, received_body),) = parsed([command.replace(b"HPUB ", b"HMSG ").replace(
        b"tollway.events.0.tnt_1.a.b reply", b"tollway.events.0.tnt_1.a.b 1 reply", 1
    )])  # fmt: skip

    message = NatsReceived(1, subject, received, received_body)
    assert dict(message.headers) == dict(attributes)
    assert (message.bus_id, message.body) == ("evt_1", body)
    assert received.count(b"\r\n") == len(attributes) + 3


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_subject_is_one_subject_or_refused(tenant: str, subject: str) -> None:
    try:
        full = bus_subject(3, tenant, subject)
    except MessageRefused:
        return
    tokens = full.split(".")
    assert tokens[:3] == ["tollway", "events", "3"]
    assert tokens[3] == tenant
    assert ".".join(tokens[4:]) == subject
    assert full.isascii()
    assert not set(full) & set(" \t\r\n*>")


@pytest.mark.parametrize("bus_id", ["", "a b", "a\r\nNats-Rollup: all", "ü", "x" * 161])
def test_an_id_that_does_not_fit_on_a_line_is_refused(bus_id: str) -> None:
    with pytest.raises(MessageRefused, match="MALFORMED"):
        attribute_block(BusMessage(0, "tnt_1", "a.b", "k", bus_id, {}, b""))


@pytest.mark.parametrize(
    ("block", "status"),
    [
        (b"NATS/1.0 503\r\n\r\n", 503),
        (b"NATS/1.0 100 Idle Heartbeat\r\n\r\n", 100),
        (b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\n\r\n", 408),
        (b"NATS/1.0\r\nce-id: 409\r\n\r\n", 0),
        (b"", 0),
    ],
)
def test_a_status_is_told_from_data(block: bytes, status: int) -> None:
    assert status_of(block) == status
