"""The rim over HTTP, step 1: a request message from path, query and body; JSON from an answer.

Invariant: what JSON cannot say of the message is refused with the reason, and nothing is dropped in silence: an unknown
field, a field said twice, and one that path and body say differently are errors. Names are those of the protos, 64-bit
integers are strings, and fields that hold their default are written, as in the bodies of webhooks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from billing.domain.errors import Invalid
from server.gateway.unreadable import names_of, unreadable

QUERY_FIELDS_MAX: Final = 100
NESTING_MAX: Final = 50

AnyMessage = TypeVar("AnyMessage", bound=Message)

_SCALARS_OF_TEXT: Final = {"true": True, "false": False}
# Messages that proto JSON writes as one string.
_TEXTUAL: Final = frozenset(
    {
        "google.protobuf.Timestamp",
        "google.protobuf.Duration",
        "google.protobuf.FieldMask",
    }
)


def fields_of_body(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; an empty body is an empty object. Raises Invalid."""
    if not body.strip():
        return {}
    try:
        value = json.loads(
            body, object_pairs_hook=_said_once, parse_constant=_not_a_number, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise Invalid(f"The body is not JSON: {_brief(error)}.") from error
    if not isinstance(value, dict):
        raise Invalid("The body must be a JSON object with the fields of the request.")
    return value


def fields_of_query(kind: Descriptor, query: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The fields that a query names: `page_size=10`, `period.start_time=…`; a list's field may stand several times."""
    fields: dict[str, Any] = {}
    for count, (path, text) in enumerate(query, start=1):
        if count > QUERY_FIELDS_MAX:
            raise Invalid(f"The query has more than {QUERY_FIELDS_MAX} fields.")
        _put(fields, kind, path, text)
    return fields


def with_path(fields: dict[str, Any], kind: Descriptor, path: Mapping[str, str]) -> dict[str, Any]:
    """The same fields and those of the path; one that both name must be the same in both. Raises Invalid."""
    for name, text in path.items():
        field = kind.fields_by_name[name]
        for said in (field.name, field.json_name):
            if fields.pop(said, text) != text:
                raise Invalid.field(name, "the path says otherwise; leave it out of the body")
        fields[name] = text
    return fields


def message_of(kind: type[AnyMessage], fields: Mapping[str, Any]) -> AnyMessage:
    """The message with these fields. Raises Invalid for what it cannot hold."""
    try:
        return json_format.ParseDict(dict(fields), kind(), max_recursion_depth=NESTING_MAX)
    except (json_format.ParseError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise unreadable(error, kind.DESCRIPTOR) from error  # type: ignore[arg-type] # the same class twice


def json_of(message: Message) -> str:
    """One line of JSON."""
    fields = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _said_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object says one name twice")
    return found


def _not_a_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


def _put(fields: dict[str, Any], kind: Descriptor, path: str, text: str) -> None:
    *parents, last = path.split(".")
    for name in parents:
        field = _field(kind, name, path)
        if field.message_type is None or field.is_repeated:
            raise Invalid.field(path, f"{name} has no fields")
        kind = field.message_type
        fields = fields.setdefault(field.name, {})
        if not isinstance(fields, dict):
            raise Invalid.field(path, f"{name} stands in the query already, as a whole")
    field = _field(kind, last, path)
    value = _value(field, path, text)
    if field.is_repeated:
        fields.setdefault(field.name, []).append(value)
    elif field.name in fields:
        raise Invalid.field(path, "stands twice in the query")
    else:
        fields[field.name] = value


def _field(kind: Descriptor, name: str, path: str) -> FieldDescriptor:
    field = kind.fields_by_name.get(name) or kind.fields_by_camelcase_name.get(name)
    if field is None:
        raise Invalid.field(path, f"the request has no such field; it has {names_of(kind)}")
    return field


def _value(field: FieldDescriptor, path: str, text: str) -> Any:
    """Text as proto JSON has it: numbers, enums and times are read from strings there too."""
    if field.message_type is not None and field.message_type.full_name not in _TEXTUAL:
        raise Invalid.field(path, "name one field of it, with a point between")
    if field.type == FieldDescriptor.TYPE_BOOL:
        if text not in _SCALARS_OF_TEXT:
            raise Invalid.field(path, "must be true or false")
        return _SCALARS_OF_TEXT[text]
    return text


def _brief(error: BaseException) -> str:
    return str(error).rstrip(".") or type(error).__name__
