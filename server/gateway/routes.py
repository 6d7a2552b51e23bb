"""The rim over HTTP, step 0: which path calls which method, read from the contract's own google.api.http options.

Invariant: a method is reachable by exactly the routes that its option names; nothing is listed twice by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import Message

_VARIABLE: Final = re.compile(r"\{(\w+)\}")
_WITHIN: Final = re.compile(_VARIABLE.pattern + "(?=/)")
_VERBS: Final = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True, slots=True)
class Route:
    """One way to call a method. `variables` are the request's fields that stand in the path.

    `has_body` says that the body holds the rest of the request; without it the query does.
    """

    verb: str
    template: str
    method: str
    request: type[Message]
    answer: type[Message]
    has_body: bool
    streams_in: bool
    streams_out: bool

    @property
    def pattern(self) -> str:
        """The path as aiohttp matches it: a variable holds no slash, and the last no colon, which begins a verb."""
        return _VARIABLE.sub(r"{\1:[^/:]+}", _WITHIN.sub(r"{\1:[^/]+}", self.template))

    @property
    def kind(self) -> Descriptor:
        """What fields the request has."""
        return cast(Descriptor, self.request.DESCRIPTOR)

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of the fields in the path."""
        return tuple(_VARIABLE.findall(self.template))


def routes_of(services: Iterable[str]) -> Iterator[Route]:
    """Every route of these services, by their full names; their descriptors are loaded already."""
    pool = descriptor_pool.Default()
    for service in services:
        for method in pool.FindServiceByName(service).methods:
            options: Any = method.GetOptions()
            rule = options.Extensions[annotations_pb2.http]
            for binding in (rule, *rule.additional_bindings):
                yield _route(f"/{service}/{method.name}", method, binding)


def _route(name: str, method: MethodDescriptor, rule: http_pb2.HttpRule) -> Route:
    verb = rule.WhichOneof("pattern")
    assert verb in _VERBS, f"{name} has no route; a house test says so"
    assert rule.body in {"", "*"}, f"{name}: the body holds all of the request or nothing"
    return Route(
        verb.upper(),
        getattr(rule, verb),
        name,
        message_factory.GetMessageClass(method.input_type),
        message_factory.GetMessageClass(method.output_type),
        rule.body == "*",
        method.client_streaming,
        method.server_streaming,
    )
