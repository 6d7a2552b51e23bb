"""Webhook path, step 2: what a receiver reads.

Invariant: the body is a function of the committed envelope alone, so every attempt of a delivery posts the same bytes.
The id in the header is the event's and stays across attempts; a resend has a nonce, and so an id of its own.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from functools import cache
from typing import Any, Final
from uuid import UUID

import tollway
from google.protobuf import descriptor_pool, json_format, message_factory, struct_pb2
from google.protobuf.message import DecodeError, Message
from tollway.event.v1 import event_pb2

from billing.domain.ids import Prefix, encode

# Custom events carry a Struct; naming it here keeps its type in the pool.
_STRUCT: Final = struct_pb2.Struct.DESCRIPTOR.full_name

# Made once: json.dumps makes an encoder for every call that asks for more than the defaults.
_JSON: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, sort_keys=True)


class BodyUnknown(Exception):
    """The envelope is missing, or holds a payload that this release does not know; a newer one will send it."""


def message_id(event_id: UUID, nonce: int) -> str:
    """The webhook-id: `evt_…`, and `evt_…_n` for the n-th resend."""
    text = encode(Prefix.EVENT, event_id)
    return f"{text}_{nonce}" if nonce else text


def body_of(envelope: bytes | None, *, thin: bool = False) -> bytes:
    """The JSON body: type, timestamp and data as Standard Webhooks says, and the ids of the envelope.

    Names are those of the protos; 64-bit integers are strings, as in all protobuf JSON; fields that hold their default
    are written too. A thin one has no data but the resource's id. Raises BodyUnknown.
    """
    if envelope is None:
        raise BodyUnknown("the event is not in the log")
    try:
        event = event_pb2.Event.FromString(envelope)
        data = {"resource_id": event.resource_id} if thin else _payload_of(event)
    except DecodeError as error:
        raise BodyUnknown("the envelope cannot be read") from error
    body = {
        "type": event.subject,
        "timestamp": event.occurred_at.ToJsonString(),
        "data": data,
        "id": event.id,
        "tenant_id": event.tenant_id,
        "resource_id": event.resource_id,
        "resource_version": str(event.resource_version),
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
    }
    return _JSON.encode(body).encode()


def _payload_of(event: event_pb2.Event) -> Any:
    payload = _payload_type(event.data.type_url.rpartition("/")[2])()
    payload.ParseFromString(event.data.value)
    return json_format.MessageToDict(
        payload, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


@cache
def _payload_type(full_name: str) -> type[Message]:
    _load_payloads()
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(full_name)
    except KeyError as error:
        raise BodyUnknown(f"this release does not know {full_name}") from error
    return message_factory.GetMessageClass(descriptor)


@cache
def _load_payloads() -> None:
    for module in pkgutil.walk_packages(tollway.__path__, "tollway."):
        if module.name.endswith("_events_pb2"):
            importlib.import_module(module.name)
