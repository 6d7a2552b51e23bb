"""The rim, step 4: what the audit tells of a call, read from its request and its answer.

Invariant: every method is covered by one rule, so that a new one cannot be forgotten: a call worked on what its answer
shows, or else on what its request names, or else on the tenant itself. A method that knows better says so in its call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from uuid import UUID

from google.protobuf.message import Message

from billing.domain.ids import Prefix, decode, encode
from billing.runtime.db import Connection
from billing.services import audit
from server.call import Call

# What a request names beside what it works on.
_BESIDE: Final = frozenset({"request_id", "tenant_id"})


async def record(tx: Connection, request: Message, answer: Message, call: Call) -> None:
    """Writes the call's entry: one, or one for each of the resources that the answer lists."""
    request_id, note = (
        _text(request, "request_id"),
        _text(request, "note") or _text(request, "reason"),
    )
    shown = list(_shown(answer)) or [request]
    for message in shown:
        tenant_id = _tenant_of(message) or _tenant_of(request) or call.principal.tenant_id
        resource = (
            call.resource
            or _id_of(message)
            or (encode(Prefix.TENANT, tenant_id) if tenant_id else "")
        )
        change = audit.Change(resource, note, request_id)
        await audit.record(tx, tenant_id or audit.HOUSE, change, call.cause, now=call.now)


def _shown(answer: Message) -> Iterator[Message]:
    """What was worked on, of what the answer shows: a list of resources, or else the first of those it has."""
    fields = [
        field
        for field in answer.DESCRIPTOR.fields
        if field.message_type is not None and "id" in field.message_type.fields_by_name
    ]
    for field in fields:
        if field.is_repeated:
            yield from getattr(answer, field.name)
            return
    for field in fields:
        if answer.HasField(field.name):
            yield getattr(answer, field.name)
            return


def _id_of(message: Message) -> str:
    """A resource's id; of a request, the first id or key that it names."""
    for field in message.DESCRIPTOR.fields:
        named = field.name == "id" or field.name.endswith(("_id", "_key"))
        if named and field.name not in _BESIDE and (text := _text(message, field.name)):
            return text
    return ""


def _tenant_of(message: Message) -> UUID | None:
    of_tenant = message.DESCRIPTOR.full_name == "tollway.tenant.v1.Tenant"
    text = _text(message, "id" if of_tenant else "tenant_id")
    return decode(Prefix.TENANT, text) if text else None


def _text(message: Message, name: str) -> str:
    value = getattr(message, name, "")
    return value if isinstance(value, str) else ""
