"""The door: from JSON to a request of the API, field by field.

Invariant: a value that does not fit its field is told by the field's path and with what would fit; nothing is guessed,
dropped or taken twice. Every field that the API has is one here, the day that it enters the proto.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from cli.plans.places import Step


class Problem(NamedTuple):
    """What is wrong with a value, and what to do."""

    path: tuple[Step, ...]
    text: str


class Object(dict[str, Any]):
    """An object of the file; a key that it has twice is remembered."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        keys = [key for key, _ in pairs]
        self.doubled: Final = [key for key in self if keys.count(key) > 1]


def fill(
    message: Message, raw: object, path: tuple[Step, ...], unknown: Collection[str] = ()
) -> Iterator[Problem]:
    """Fills the message and tells what does not fit. Fields in `unknown` are as if the message had none such."""
    if not isinstance(raw, Object):
        yield Problem(path, "must be an object: {…}.")
        return
    known: dict[str, Any] = {
        one.name: one for one in message.DESCRIPTOR.fields if one.name not in unknown
    }
    yield from strangers(raw, list(known), path)
    yield from _alternatives(message, raw, path)
    for name, value in raw.items():
        if name in known:
            yield from _fill_field(message, known[name], value, (*path, name))


def strangers(raw: Object, known: Collection[str], path: tuple[Step, ...]) -> Iterator[Problem]:
    """Keys that mean nothing, or stand there twice."""
    for name in raw.doubled:
        yield Problem((*path, name), "stands here twice; keep one.")
    for name in raw:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}."
            yield Problem((*path, name), f"is no field here; {meant}")


def _alternatives(message: Message, raw: Object, path: tuple[Step, ...]) -> Iterator[Problem]:
    for choice in message.DESCRIPTOR.oneofs:
        names = [field.name for field in choice.fields]
        given = [name for name in names if name in raw]
        for name in given[1:]:
            yield Problem((*path, name), f"{given[0]} is given as well; give one of them.")


def _fill_field(
    message: Message, field: FieldDescriptor, value: object, path: tuple[Step, ...]
) -> Iterator[Problem]:
    if field.message_type is None:
        yield from _fill_plain(message, field, value, path)
    elif not field.is_repeated:
        part = getattr(message, field.name)
        part.SetInParent()
        yield from fill(part, value, path)
    elif not isinstance(value, list):
        yield Problem(path, "must be a list: […].")
    else:
        for place, one in enumerate(value):
            yield from fill(getattr(message, field.name).add(), one, (*path, place))


def _fill_plain(
    message: Message, field: FieldDescriptor, value: object, path: tuple[Step, ...]
) -> Iterator[Problem]:
    if field.type == FieldDescriptor.TYPE_STRING and type(value) is int:
        value = str(value)  # as with decimals, a number is read by its digits
    try:
        ParseDict({field.name: value}, message)
    except ParseError:
        yield Problem(path, _what_fits(field))


def _what_fits(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return f"write one of {', '.join(one.name for one in field.enum_type.values[1:])}."
    kinds = {
        FieldDescriptor.TYPE_STRING: 'a text: "…"',
        FieldDescriptor.TYPE_BOOL: "true or false",
    }
    kind = kinds.get(field.type, "a whole number")
    return f"must be a list of such: {kind}." if field.is_repeated else f"must be {kind}."
