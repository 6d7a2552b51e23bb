"""Contract toolchain: the protos as the reference pages and the house tests read them.

Invariant: options are read with descriptors from the same protos, never with generated code,
so the pages can be made before the code is.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as ProtoMessage

SUBJECT_OPTION: Final = "tollway.options.v1.subject"
HTTP_OPTION: Final = "google.api.http"

# Field numbers of descriptor.proto. A comment is found by the path of numbers and indexes to it.
FILE_MESSAGES, FILE_ENUMS, FILE_SERVICES = 4, 5, 6
MESSAGE_FIELDS, MESSAGE_NESTED, MESSAGE_ENUMS = 2, 3, 4
ENUM_VALUES = SERVICE_METHODS = 2

Trail = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message; `type` is as the proto writes it, such as `repeated string`."""

    name: str
    type: str
    comment: str


@dataclass(frozen=True, slots=True)
class Message:
    """A message; `subject` is that of the event it is the payload of, or empty."""

    name: str
    comment: str
    subject: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class EnumValue:
    """A value of an enum."""

    name: str
    number: int
    comment: str


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum with its values in the order of the proto."""

    name: str
    comment: str
    values: tuple[EnumValue, ...]


@dataclass(frozen=True, slots=True)
class Rpc:
    """A method; `http` are its JSON routes, such as `POST /v1/usage`, the main one first."""

    name: str
    comment: str
    request: str
    answer: str
    streams_in: bool
    streams_out: bool
    http: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Service:
    """A service with its methods in the order of the proto."""

    name: str
    comment: str
    rpcs: tuple[Rpc, ...]


@dataclass(frozen=True, slots=True)
class Contract:
    """All messages, enums and services of the wanted files. Names are full, without first dot."""

    messages: tuple[Message, ...]
    enums: tuple[Enum, ...]
    services: tuple[Service, ...]


def read(files: Iterable[descriptor_pb2.FileDescriptorProto], wanted: Iterable[str]) -> Contract:
    """The contract in the `wanted` ones of `files`; the others only resolve imports and options.

    `files` come with source info and in an order where an import stands before its importer,
    as protoc plugins get them and `buf build --as-file-descriptor-set` writes them.
    """
    kept = list(files)
    options = Options(kept)
    readers = [FileReader(file, options) for file in kept if file.name in set(wanted)]
    return Contract(
        messages=tuple(m for reader in readers for m in reader.messages()),
        enums=tuple(e for reader in readers for e in reader.enums()),
        services=tuple(s for reader in readers for s in reader.services()),
    )


class Options:
    """Reads custom options: they arrive as unknown fields, which only the protos can name."""

    def __init__(self, files: Iterable[descriptor_pb2.FileDescriptorProto]) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        for file in files:
            self._pool.Add(file)
        self._classes: dict[str, type[ProtoMessage]] = {}

    def get(self, options: ProtoMessage, extension: str) -> object:
        """The value of the option called `extension`, or None when it is not set."""
        try:
            field: FieldDescriptor = self._pool.FindExtensionByName(extension)
        except KeyError:
            return None
        holder = options.DESCRIPTOR.full_name
        if holder not in self._classes:
            descriptor = self._pool.FindMessageTypeByName(holder)
            self._classes[holder] = message_factory.GetMessageClass(descriptor)
        known = self._classes[holder].FromString(options.SerializeToString())
        for present, value in known.ListFields():
            if present.is_extension and present.full_name == field.full_name:
                return value
        return None


class FileReader:
    """Walks one file, with the path of numbers that its comments are filed under."""

    def __init__(self, file: descriptor_pb2.FileDescriptorProto, options: Options) -> None:
        self._file, self._options = file, options
        self._comments: Mapping[Trail, str] = {
            tuple(place.path): tidy(place.leading_comments or place.trailing_comments)
            for place in file.source_code_info.location
        }

    def messages(self) -> Iterator[Message]:
        """Every message, the nested ones after their parent, without the entries of maps."""
        for name, trail, message in self.walk():
            subject = self._options.get(message.options, SUBJECT_OPTION)
            maps = {f"{name}.{n.name}": n for n in message.nested_type if n.options.map_entry}
            yield Message(
                name=name,
                comment=self.comment(trail),
                subject=subject if isinstance(subject, str) else "",
                fields=tuple(
                    Field(field.name, type_of(field, maps), self.comment(trail, MESSAGE_FIELDS, i))
                    for i, field in enumerate(message.field)
                ),
            )

    def enums(self) -> Iterator[Enum]:
        """Every enum, those of the file first."""
        for i, enum in enumerate(self._file.enum_type):
            yield self._enum(self._file.package, (FILE_ENUMS, i), enum)
        for name, trail, message in self.walk():
            for i, enum in enumerate(message.enum_type):
                yield self._enum(name, (*trail, MESSAGE_ENUMS, i), enum)

    def services(self) -> Iterator[Service]:
        """Every service of the file."""
        for i, service in enumerate(self._file.service):
            rpcs = tuple(
                self._rpc((FILE_SERVICES, i, SERVICE_METHODS, j), method)
                for j, method in enumerate(service.method)
            )
            name = f"{self._file.package}.{service.name}"
            yield Service(name, self.comment((FILE_SERVICES, i)), rpcs)

    def walk(self) -> Iterator[tuple[str, Trail, descriptor_pb2.DescriptorProto]]:
        """Every message with its full name and its path of numbers, the nested ones after their parent."""
        stack: list[tuple[str, Trail, descriptor_pb2.DescriptorProto]] = [
            (f"{self._file.package}.{message.name}", (FILE_MESSAGES, i), message)
            for i, message in enumerate(self._file.message_type)
        ]
        while stack:
            name, trail, message = stack.pop(0)
            yield name, trail, message
            stack[:0] = [
                (f"{name}.{nested.name}", (*trail, MESSAGE_NESTED, i), nested)
                for i, nested in enumerate(message.nested_type)
                if not nested.options.map_entry
            ]

    def _enum(self, parent: str, trail: Trail, enum: descriptor_pb2.EnumDescriptorProto) -> Enum:
        values = tuple(
            EnumValue(value.name, value.number, self.comment(trail, ENUM_VALUES, i))
            for i, value in enumerate(enum.value)
        )
        return Enum(f"{parent}.{enum.name}", self.comment(trail), values)

    def _rpc(self, trail: Trail, method: descriptor_pb2.MethodDescriptorProto) -> Rpc:
        return Rpc(
            name=method.name,
            comment=self.comment(trail),
            request=method.input_type.removeprefix("."),
            answer=method.output_type.removeprefix("."),
            streams_in=method.client_streaming,
            streams_out=method.server_streaming,
            http=routes(self._options.get(method.options, HTTP_OPTION)),
        )

    def comment(self, trail: Trail, *more: int) -> str:
        """What is written above the thing at this path."""
        return self._comments.get((*trail, *more), "")


def tidy(comment: str) -> str:
    """A comment without the blank that follows each `//`."""
    return "\n".join(line.removeprefix(" ") for line in comment.splitlines()).strip()


def type_of(
    field: descriptor_pb2.FieldDescriptorProto,
    maps: Mapping[str, descriptor_pb2.DescriptorProto],
) -> str:
    """The type of a field as the proto writes it; `maps` are the map entries of its message."""
    plain = field.type_name.removeprefix(".")
    if plain in maps:
        key, value = (type_of(part, {}) for part in maps[plain].field)
        return f"map<{key}, {value}>"
    if not plain:
        scalar = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)
        plain = scalar.removeprefix("TYPE_").lower()
    if field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {plain}"
    return f"optional {plain}" if field.proto3_optional else plain


def routes(rule: object) -> tuple[str, ...]:
    """`POST /v1/usage` and the like from a google.api.HttpRule, its further bindings behind it; or nothing."""
    if not isinstance(rule, ProtoMessage):
        return ()
    pattern = rule.WhichOneof("pattern")
    own = (f"{pattern.upper()} {getattr(rule, pattern)}",) if pattern else ()
    further = getattr(rule, "additional_bindings")  # noqa: B009 - the class is made from the protos at run time
    return own + tuple(path for binding in further for path in routes(binding))
