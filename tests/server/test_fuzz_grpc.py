"""Whatever message comes over gRPC, each method answers or refuses it: no fault of ours, no hang."""

from __future__ import annotations

import asyncio
import string
from collections.abc import Mapping, Sequence
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from billing.services.keys import Scope
from tests.conftest import LONG
from tests.server.rim import REQUESTS, Rim, read_refusal

MESSAGES_PER_METHOD: Final = 100 if LONG else 4
DEPTH_MAX: Final = 3
ANSWER_S: Final = 20.0

TEXTS: Final = st.one_of(
    st.sampled_from(
        [
            "",
            "1",
            "0",
            "-1",
            "1e400",
            "NaN",
            "0.000000000001",
            "9" * 40,
            "EUR",
            "USD",
            "Europe/Vienna",
        ]
    ),
    st.sampled_from(
        [
            "\0",
            "\U0010ffff",
            "' OR 1=1 --",
            "../../etc/passwd",
            "%s%n",
            "http://127.0.0.1/",
            "*",
            "custom.a",
        ]
    ),
    st.text(max_size=20),
    st.text(alphabet=string.ascii_lowercase + "_", min_size=1, max_size=12),
)
INTEGERS: Final = st.one_of(st.integers(-3, 3), st.sampled_from([2**31 - 1, -(2**31)]))
LONG_INTEGERS: Final = st.one_of(st.integers(-3, 3), st.sampled_from([2**63 - 1, -(2**63)]))
UNSIGNED: Final = st.one_of(st.integers(0, 3), st.just(2**32 - 1))
SECONDS: Final = st.one_of(
    st.integers(1_600_000_000, 1_900_000_000), st.sampled_from([0, -1, 2**63 - 1, -(2**63)])
)


PLAIN: Final[Mapping[int, st.SearchStrategy[Any]]] = {
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=20),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.floats(width=32),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.TYPE_INT32: INTEGERS,
    FieldDescriptor.TYPE_UINT32: UNSIGNED,
}


def value_of(field: Any, ids: Sequence[str], depth: int) -> st.SearchStrategy[Any]:
    """Values of a field; a string is often the id of something that is there."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return st.one_of(TEXTS, st.sampled_from(list(ids)))
    if field.type == FieldDescriptor.TYPE_ENUM:
        numbers = [value.number for value in field.enum_type.values]
        return st.one_of(st.sampled_from(numbers), st.just(99))
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return message_of(field.message_type, ids, depth + 1)
    if field.containing_type.full_name == "google.protobuf.Timestamp" and field.name == "seconds":
        return SECONDS
    return PLAIN.get(field.type, LONG_INTEGERS)


def message_of(kind: Any, ids: Sequence[str], depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """The fields of a message as a plain dictionary; some are left out."""
    if depth > DEPTH_MAX:
        return st.just({})
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in kind.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            fields[field.name] = st.dictionaries(TEXTS, TEXTS, max_size=2)
        elif field.is_repeated:
            fields[field.name] = st.lists(value_of(field, ids, depth), max_size=3)
        else:
            fields[field.name] = value_of(field, ids, depth)
    return st.fixed_dictionaries({}, optional=fields)


def fill(message: Message, fields: dict[str, Any]) -> None:
    """Sets the fields; of a oneof the last one stays."""
    for name, value in fields.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        target = getattr(message, name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is None:
                target.update(value)
        elif field.is_repeated and field.message_type is not None:
            for one in value:
                fill(target.add(), one)
        elif field.is_repeated:
            target.extend(value)
        elif field.message_type is not None:
            target.SetInParent()
            fill(target, value)
        else:
            setattr(message, name, value)


def bodies(kind: type[Message], ids: Sequence[str]) -> list[bytes]:
    found: list[bytes] = []

    @settings(
        max_examples=MESSAGES_PER_METHOD,
        derandomize=not LONG,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(message_of(kind.DESCRIPTOR, ids), st.binary(max_size=8), st.booleans())
    def collect(fields: dict[str, Any], tail: bytes, spoil: bool) -> None:
        message = kind()
        fill(message, fields)
        # Now and then the bytes are no message at all.
        found.append(message.SerializeToString() + (tail if spoil and len(tail) > 6 else b""))

    collect()
    return found


async def known_ids(rim: Rim) -> list[str]:
    """Ids of things that are there, ours and another tenant's."""
    mine = await rim.customer("UA")
    theirs = await rim.customer("DL", rim.other.keys[Scope.ADMIN])
    return [
        mine.id,
        theirs.id,
        rim.acme.name,
        rim.other.name,
        "UA",
        mine.id.replace("cus_", "sub_"),
    ]


@pytest.mark.timeout(1800 if LONG else 300)
async def test_no_message_over_grpc_finds_a_fault_or_a_hang(rim: Rim) -> None:
    ids = await known_ids(rim)
    strange = []
    for method, kind in REQUESTS.items():
        for body in bodies(kind, ids):
            key = rim.operator if "OperationsService" in method else ""
            try:
                async with asyncio.timeout(ANSWER_S):
                    await rim.raw(method, body, key)
            except grpc.aio.AioRpcError as error:
                if error.code() in {
                    grpc.StatusCode.INTERNAL,
                    grpc.StatusCode.UNKNOWN,
                    grpc.StatusCode.UNIMPLEMENTED,
                }:
                    strange.append((method, error.details(), kind.FromString(body)))
                else:
                    read_refusal(error)
    assert not strange, f"{len(strange)}: {strange[:3]}"
