"""Contract toolchain: messages and enums as JSON Schema, as protobuf's JSON and the gateway write them.

Invariant: a limit that the proto states is a limit of the schema too, and nothing else is.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.message import Message as ProtoMessage

from tools.contract import MESSAGE_FIELDS, FileReader, Options, Trail

FIELD_RULES: Final = "buf.validate.field"
ONEOF_RULES: Final = "buf.validate.oneof"
SCHEMAS: Final = "#/components/schemas/"

Json = dict[str, Any]
Type = FieldDescriptorProto.Type

_INT64: Final = {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"}
_INT32: Final = {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
_UINT32: Final = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
_SCALARS: Final[Mapping[int, Json]] = {
    FieldDescriptorProto.TYPE_DOUBLE: {"type": "number"},
    FieldDescriptorProto.TYPE_FLOAT: {"type": "number"},
    FieldDescriptorProto.TYPE_INT64: _INT64,
    FieldDescriptorProto.TYPE_UINT64: _INT64,
    FieldDescriptorProto.TYPE_INT32: _INT32,
    FieldDescriptorProto.TYPE_UINT32: _UINT32,
    FieldDescriptorProto.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptorProto.TYPE_STRING: {"type": "string"},
    FieldDescriptorProto.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}
# Google's messages that JSON writes in a way of their own.
WELL_KNOWN: Final[Mapping[str, Json]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
    },
}


class Schemas:
    """Every message and enum of the contract by full name, and what a field of one looks like in JSON."""

    def __init__(self, files: Iterable[FileDescriptorProto], wanted: Iterable[str]) -> None:
        kept, names = list(files), set(wanted)
        self._options = Options(kept)
        self._readers = [FileReader(file, self._options) for file in kept if file.name in names]
        self.messages: dict[str, tuple[FileReader, Trail, DescriptorProto]] = {}
        self._enums: dict[str, EnumDescriptorProto] = {}
        for file, reader in zip((f for f in kept if f.name in names), self._readers, strict=True):
            self._enums |= {f"{file.package}.{enum.name}": enum for enum in file.enum_type}
            for name, trail, message in reader.walk():
                self.messages[name] = (reader, trail, message)
                self._enums |= {f"{name}.{enum.name}": enum for enum in message.enum_type}

    def components(self) -> Json:
        """The schema of each message and enum."""
        comments = {enum.name: enum.comment for reader in self._readers for enum in reader.enums()}
        enums = {
            name: {
                "type": "string",
                "description": comments[name],
                "enum": [value.name for value in enum.value],
            }
            for name, enum in self._enums.items()
        }
        return dict(sorted((enums | {name: self.message(name) for name in self.messages}).items()))

    def message(self, name: str) -> Json:
        """The schema of a message: its fields, which of them must be there, and which exclude each other."""
        reader, trail, message = self.messages[name]
        fields = dict(self.fields(name))
        schema: Json = {"type": "object", "properties": fields, "additionalProperties": False}
        if comment := reader.comment(trail):
            schema = {"description": comment, **schema}
        if required := [field.name for field in message.field if self.is_required(field)]:
            schema["required"] = required
        choices = [self._choice(message, i) for i in range(len(message.oneof_decl))]
        if choices := [choice for choice in choices if choice]:
            schema |= {"allOf": choices} if len(choices) > 1 else choices[0]
        return schema

    def fields(self, name: str) -> Iterator[tuple[str, Json]]:
        """Each field of a message with its schema and its comment."""
        reader, trail, message = self.messages[name]
        maps = {f".{name}.{n.name}": n for n in message.nested_type if n.options.map_entry}
        for i, field in enumerate(message.field):
            schema = self._field(field, maps)
            if comment := reader.comment(trail, MESSAGE_FIELDS, i):
                schema = {**schema, "description": comment}
            yield field.name, schema

    def is_required(self, field: FieldDescriptorProto) -> bool:
        """Whether leaving the field out breaks a rule of it."""
        rules = self._rules(field)
        if rules is None:
            return False
        if rules.required:
            return True
        kind = rules.WhichOneof("type")
        if kind == "string" and not field.HasField("oneof_index"):
            return bool(rules.string.min_len or rules.string.pattern.startswith("^["))
        if kind == "enum":
            return 0 in rules.enum.not_in
        return kind == "repeated" and bool(rules.repeated.min_items)

    def _choice(self, message: DescriptorProto, index: int) -> Json:
        names = [
            f.name for f in message.field if f.HasField("oneof_index") and f.oneof_index == index
        ]
        rules = self._options.get(message.oneof_decl[index].options, ONEOF_RULES)
        if rules is None or not getattr(rules, "required", False):
            return {}
        return {"oneOf": [{"required": [name]} for name in names]}

    def _field(self, field: FieldDescriptorProto, maps: Mapping[str, DescriptorProto]) -> Json:
        rules = self._rules(field)
        if field.type_name in maps:
            value = maps[field.type_name].field[1]
            inner = rules.map.values if rules is not None and rules.HasField("map") else None
            schema: Json = {
                "type": "object",
                "additionalProperties": self._single(value, inner),
            }
            if rules is not None and rules.map.max_pairs:
                schema["maxProperties"] = rules.map.max_pairs
            return schema
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            inner = (
                rules.repeated.items if rules is not None and rules.HasField("repeated") else None
            )
            schema = {"type": "array", "items": self._single(field, inner)}
            return schema | _sizes(rules)
        return self._single(field, rules)

    def _single(self, field: FieldDescriptorProto, rules: Any) -> Json:
        name = field.type_name.removeprefix(".")
        if field.type == FieldDescriptorProto.TYPE_ENUM:
            if rules is not None and rules.enum.not_in:
                refused = set(rules.enum.not_in)
                values = [v.name for v in self._enums[name].value if v.number not in refused]
                return {"type": "string", "enum": values}
            return {"$ref": SCHEMAS + name}
        if field.type == FieldDescriptorProto.TYPE_MESSAGE:
            return dict(WELL_KNOWN[name]) if name in WELL_KNOWN else {"$ref": SCHEMAS + name}
        return dict(_SCALARS[field.type]) | _limits(rules)

    def _rules(self, field: FieldDescriptorProto) -> Any:
        rules = self._options.get(field.options, FIELD_RULES)
        return rules if isinstance(rules, ProtoMessage) else None


def _sizes(rules: Any) -> Json:
    if rules is None:
        return {}
    sizes = {"minItems": rules.repeated.min_items, "maxItems": rules.repeated.max_items}
    return {name: size for name, size in sizes.items() if size}


def _limits(rules: Any) -> Json:
    """Lengths, patterns and ranges. A length in the proto counts code points, as JSON Schema does."""
    if rules is None:
        return {}
    kind = rules.WhichOneof("type")
    if kind == "string":
        text = rules.string
        limits: Json = {
            "minLength": text.min_len,
            "maxLength": text.max_len,
            "pattern": text.pattern,
        }
        return {name: limit for name, limit in limits.items() if limit}
    if kind in {"int32", "uint32"}:
        number = getattr(rules, kind)
        limits = {
            "minimum": _bound(number, ("gte", 0), ("gt", 1)),
            "maximum": _bound(number, ("lte", 0), ("lt", -1)),
        }
        return {name: limit for name, limit in limits.items() if limit is not None}
    return {}


def _bound(number: Any, *bounds: tuple[str, int]) -> int | None:
    for name, shift in bounds:
        if number.HasField(name):
            return int(getattr(number, name)) + shift
    return None
