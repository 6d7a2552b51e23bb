"""The rim over HTTP, step 2: why JSON is not the request, told in the contract's own names.

Invariant: what the caller reads names the field as the protos do and says what to write; no library speaks to him.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from billing.domain.errors import Invalid

_UNKNOWN: Final = re.compile(r'has no field named "([^"]{1,100})" at "[^".]+\.?([^"]*)"')
_PARSED: Final = re.compile(r"Failed to parse (\w+) field")
_TEXTUAL: Final = {
    "google.protobuf.Timestamp": 'a time such as "2026-01-31T12:00:00Z"',
    "google.protobuf.Duration": 'a length of time such as "90s"',
    "google.protobuf.FieldMask": 'names of fields, with commas between, such as "display_name"',
    "google.protobuf.Struct": "an object",
}
_SCALARS: Final = {
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_STRING: "a text in quotation marks",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
}


def unreadable(error: BaseException, kind: Descriptor) -> Invalid:
    """The refusal of a request of this kind that the parser of JSON gave up on."""
    text = str(error)
    if unknown := _UNKNOWN.search(text):
        name, place = unknown.groups()
        owner = _owner(kind, re.sub(r"\[\d+\]", "", place).split(".") if place else ())
        known = f"; it has {names_of(owner)}" if owner else ""
        return Invalid.field(f"{place}.{name}".lstrip("."), f"there is no such field{known}")
    path = _PARSED.findall(text)
    field = _leaf(kind, path)
    if field is None:
        return Invalid(f"The request is not as the contract says: {text.rstrip('.')}.")
    return Invalid.field(".".join(path), f"must be {_expected(field)}")


def names_of(kind: Descriptor) -> str:
    """The fields of a message, for people."""
    return ", ".join(field.name for field in kind.fields) or "none"


def _owner(kind: Descriptor, path: Sequence[str]) -> Descriptor | None:
    if not path:
        return kind
    field = _leaf(kind, path)
    return field.message_type if field else None


def _leaf(kind: Descriptor | None, path: Sequence[str]) -> FieldDescriptor | None:
    field = None
    for name in path:
        if kind is None:
            return None
        field = kind.fields_by_name.get(name) or kind.fields_by_camelcase_name.get(name)
        if field is None:
            return None
        kind = field.message_type
    return field


def _expected(field: FieldDescriptor) -> str:
    one = _one(field)
    return f"a list, each of it {one}" if field.is_repeated else one


def _one(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return f"one of {_values(field.enum_type)}"
    if field.message_type is not None:
        return _TEXTUAL.get(field.message_type.full_name, "an object")
    return _SCALARS.get(field.cpp_type, "a whole number")


def _values(kind: EnumDescriptor) -> str:
    return ", ".join(value.name for value in kind.values if value.number)
